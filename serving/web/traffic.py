"""An ASGI middleware around everything: each request gets an id, is counted, and has a line in the access log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from functools import cached_property

import bentoml
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.monitoring.metrics import Metrics

# What may stand in a log and a header as it is; other ids are not taken over.
IDENTITY = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# The key of the id in the scope.
REQUEST_ID = "x-request-id"
# As BentoML has it: who looks at the metrics does not change them, and the log is not filled by probes.
UNCOUNTED = "/metrics"
UNLOGGED = ("/metrics", "/livez", "/readyz", "/healthz")

access = logging.getLogger("bentoml.access")
logger = logging.getLogger("bentoml.digits")


class Traffic:
    """The middleware, for `Service.add_asgi_middleware`, before all others.

    A client's `X-Request-ID` is kept, otherwise one is made up. The answer has it as `X-Request-ID` and
    under BentoML's name, `X-BentoML-Request-ID`.

    Args:
        app: the rest of the service.
        access_log: whether each request gets a line in the log.
    """

    def __init__(self, app: ASGIApp, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        identity = _identity(scope)
        scope[REQUEST_ID] = identity.decode()
        status = 0

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                marks = [(b"x-request-id", identity), (b"x-bentoml-request-id", identity)]
                message = {**message, "headers": [*message["headers"], *marks]}
            await send(message)

        counted = scope["path"] != UNCOUNTED
        endpoint = self._metrics.began(scope["path"]) if counted else ""
        try:
            await self._app(scope, receive, marked)
        except asyncio.CancelledError:
            status = status or 504  # which BentoML answers when it takes the request's time to be up
            raise
        except Exception:
            logger.exception("%s %s failed, request %s", scope["method"], _path(scope), scope[REQUEST_ID])
            status = status or 500
            raise
        finally:
            seconds = time.perf_counter() - began
            if counted:
                self._metrics.answered(endpoint, status, seconds)
            if self._access_log and scope["path"] not in UNLOGGED:
                access.info(
                    "%s %s %d %.3f ms, request %s",
                    scope["method"],
                    _path(scope),
                    status,
                    1000 * seconds,
                    scope[REQUEST_ID],
                )

    @cached_property
    def _metrics(self) -> Metrics:
        metrics: Metrics = bentoml.get_current_service().metrics
        return metrics


def _identity(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and IDENTITY.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(8).encode()


def _path(scope: Scope) -> str:
    """The path as the client wrote it: decoded, it might hold an end of line."""
    path: bytes = scope["raw_path"]
    return path[:200].decode("ascii", "replace")
