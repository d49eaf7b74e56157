"""The log on the console as one JSON object per event, for `PIPELINE_LOG_FORMAT=json`."""

import json
import logging
import os
import sys
from datetime import UTC, datetime


class JSONLines(logging.Formatter):
    """Formats a record as one line of JSON: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of an exception, `exception` has the whole traceback."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    """Log to the standard error as JSON, including warnings, uncaught exceptions and the lines of MLflow."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # MLflow, which is imported later, would add a handler of its own.
    os.environ["MLFLOW_CONFIGURE_LOGGING"] = "false"
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: logging.getLogger("pipeline").critical("Uncaught exception", exc_info=error)


def is_json() -> bool:
    """Return whether the log is JSON; then progress bars would be between its lines."""
    return any(isinstance(handler.formatter, JSONLines) for handler in logging.getLogger().handlers)
