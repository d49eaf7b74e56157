"""Middlewares in front of BentoML: request ids, metrics, the access log, and their own place in the stack.

BentoML puts a service's middlewares behind its own. Those start a second task and a 60-second timer for each request,
and match its URL. In front of them, and with metrics that label unknown paths once, 16 clients with one image as JSON
get 1.22 instead of 0.98 of bare Starlette's rate (docs/performance-serving.md).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.model.store import Store
from serving.monitoring.logs import REQUEST_ID, mark_as_logged
from serving.monitoring.metrics import Metrics
from serving.web.answers import FAILED, error, version_in_service

# Request ids that are safe in a log line and a header; others are replaced.
IDENTITY = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# As in BentoML: scrapes do not count themselves, and probes do not fill the log.
UNCOUNTED = "/metrics"
UNLOGGED = ("/metrics", "/livez", "/readyz", "/healthz")

access = logging.getLogger("bentoml.access")
logger = logging.getLogger("bentoml.digits")


class InFront:
    """Adds a middleware when the service has started: in front of all others, or in its own place.

    For `Service.add_asgi_middleware`. BentoML creates the service while it handles ASGI's lifespan event; before that,
    and without that event, requests pass through.

    Args:
        app: the next ASGI application.
        build: returns the middleware around an application; called once, when the service exists.
        in_place: keep the middleware behind BentoML's, so that their spans include it.
    """

    def __init__(self, app: ASGIApp, build: Callable[[ASGIApp], ASGIApp], in_place: bool = False) -> None:
        self._app = app
        self._build = build
        self._in_place = in_place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; install the middleware at the end of the startup."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def install(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                if self._in_place:
                    self._app = self._build(self._app)
                else:
                    application = scope["app"]  # Starlette's, whose stack holds all middlewares
                    application.middleware_stack = self._build(application.middleware_stack)
            await send(message)

        await self._app(scope, receive, install)


class Traffic:
    """The outermost middleware: each request gets an id, is counted, and is logged.

    A client's `X-Request-ID` is kept, otherwise a new one is made. The response has it as `X-Request-ID` and as
    BentoML's `X-BentoML-Request-ID`.

    Args:
        app: the next ASGI application.
        store: the model in service, for the header of failed requests.
        metrics: counts requests.
        access_log: whether to log each request.
    """

    def __init__(self, app: ASGIApp, store: Store, metrics: Metrics, access_log: bool) -> None:
        self._app = app
        self._store = store
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and mark its response; answer 500 if it fails before its response begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        identity = _identity(scope)
        REQUEST_ID.set(identity.decode())
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
            status = status or 504  # BentoML's response to its own timeout
            raise
        except Exception as failure:
            logger.exception("%s %s failed, request %s", scope["method"], _path(scope), identity.decode())
            mark_as_logged(failure)
            if status:
                raise
            await error(500, FAILED).send(marked, version_in_service(self._store))
        finally:
            seconds = time.perf_counter() - began
            if counted:
                self._metrics.answered(endpoint, status, seconds)
            if self._access_log and scope["path"] not in UNLOGGED:
                method, path, milliseconds = scope["method"], _path(scope), round(1000 * seconds, 3)
                fields = {"method": method, "path": path, "status": status, "milliseconds": milliseconds}
                access.info(
                    "%s %s %d %.3f ms, request %s",
                    *fields.values(),
                    identity.decode(),
                    extra={"fields": fields},
                )


def _identity(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and IDENTITY.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(8).encode()


def _path(scope: Scope) -> str:
    """Return the path as the client sent it: a decoded one could hold a line break."""
    path: bytes = scope["raw_path"]
    return path[:200].decode("ascii", "replace")
