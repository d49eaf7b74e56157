"""The log: BentoML's lines of text, or one JSON object per event."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from bentoml import server_context
from opentelemetry import trace

from serving.errors import redact

# The id of the current request, for every line that is logged during it.
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

TRACEBACK = "Traceback (most recent call last):"

logger = logging.getLogger("bentoml.digits")


class JSONLines(logging.Formatter):
    """Formats a record as one line of JSON.

    The fields are `time` (ISO 8601, UTC), `level`, `logger` and `message`; where they exist also `worker`,
    `request_id`, `trace_id`, `span_id`, `exception`, and the entries of the record's `fields`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of an exception, `exception` has the whole traceback."""
        message, *parts = record.getMessage().partition(TRACEBACK)
        exception = self.formatException(record.exc_info) if record.exc_info else "".join(parts)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message.strip(),
            "worker": server_context.worker_index,
            "request_id": REQUEST_ID.get(),
            **dict(_trace()),
            **getattr(record, "fields", {}),
            "exception": redact(exception).strip(),
        }
        return json.dumps({name: value for name, value in line.items() if value not in (None, "")}, default=str)


def set_up(log_format: Literal["text", "json"]) -> None:
    """Complete BentoML's log, which is configured when it imports the service."""
    # BentoML gives its handler to this logger and to the root: each line would appear twice.
    logging.getLogger("circus").propagate = False
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    if log_format == "text":
        return
    # MLflow, which is imported later, would add a handler of its own.
    os.environ["MLFLOW_CONFIGURE_LOGGING"] = "false"
    for each in map(logging.getLogger, (None, "bentoml", "uvicorn.error", "circus")):
        for handler in each.handlers:
            handler.setFormatter(JSONLines())
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: logger.critical("Uncaught exception", exc_info=error)
    threading.excepthook = lambda thread: logger.critical("Uncaught exception", exc_info=thread[:3])  # type: ignore[arg-type]


def mark_as_logged(error: BaseException) -> None:
    """Keep uvicorn from logging the same traceback again."""
    error.__dict__["logged"] = True


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not getattr(error, "logged", False)


def _trace() -> Iterator[tuple[str, str]]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        yield "trace_id", trace.format_trace_id(context.trace_id)
        yield "span_id", trace.format_span_id(context.span_id)
