"""uvicorn's HTTP protocol with idle timeouts, cancellation on disconnect and bounded pipelining.

uvicorn closes a connection that is idle after a response. It waits without limit for a first request, for the rest of a
head, for the rest of a refused body, and for a client that does not read its response. It also buffers pipelined
requests without limit. The subclass costs one timer per process and nothing per request. uvicorn's set of running
requests also shows whether a request is the only one, which then bypasses the queue: 0.96 instead of 0.88 of bare
Starlette's rate with one client (docs/performance-serving.md).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, TypeVar

from starlette.types import Scope
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import HUNG_UP, RequestError
from serving.web.protocol import StrictProtocol

Result = TypeVar("Result")

# The timer checks for idle connections this many times within the timeout.
CHECKS = 10

# Keys of a request's scope, the only object that uvicorn and the application share. Only this module uses them.
_AWAITED, _GONE = "digits.awaited", "digits.gone"

# For each idle connection: its current request when it was first seen idle, and the time of that check.
Idle = dict[HttpToolsProtocol, tuple[Any, float]]


class Connections:
    """The connections of this process's server.

    Args:
        seconds: timeout of an idle connection.

    Attributes:
        refused: called with the status of each error that ends a connection before the application gets a request.
    """

    def __init__(self, seconds: float) -> None:
        self.refused: Callable[[int], None] = lambda status: None
        self._seconds = seconds
        self._requests: Collection[asyncio.Task[None]] = ()
        self._watching = False

    def install(self) -> None:
        """Make every server that starts later use this protocol: BentoML starts uvicorn with the protocol "auto"."""
        HTTP_PROTOCOLS["auto"] = partial(WatchedProtocol, self)  # type: ignore[assignment]
        # BentoML gives the same handler to uvicorn's logger and to the root: each line would appear twice.
        logging.getLogger("uvicorn.error").propagate = False

    def is_alone(self) -> bool:
        """Return whether exactly one request is in progress; False for calls that did not come over HTTP.

        uvicorn creates a task for each request as it reads them, before the first task runs. Requests that arrived
        together are therefore counted together.
        """
        return len(self._requests) == 1

    def watch(self, protocol: HttpToolsProtocol) -> None:
        """Start the timer that closes idle connections, unless it runs already."""
        if not self._watching:
            self._watching = True
            self._requests = protocol.tasks
            self._check(protocol, {})

    def _check(self, protocol: HttpToolsProtocol, before: Idle) -> None:
        idle = close_idle(protocol.connections, before, protocol.loop.time(), self._seconds)
        if protocol.connections:
            protocol.loop.call_later(self._seconds / CHECKS, self._check, protocol, idle)
        else:
            self._watching = False


class BoundedFlow(FlowControl):
    """uvicorn's flow control, but the socket is not read while pipelined requests are waiting.

    uvicorn resumes reading after each response. A client that keeps sending requests and reads no response would fill
    the memory. The request in progress has its whole body already when others wait behind it.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Collection[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Resume reading unless requests are waiting."""
        if not self._waiting:
            super().resume_reading()


class WatchedProtocol(StrictProtocol):
    """Reports connections and refusals to `Connections`, and disconnects to the request's scope."""

    def __init__(self, watcher: Connections, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._watcher = watcher

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection and watch it."""
        super().connection_made(transport)
        self.flow = BoundedFlow(transport, self.pipeline)
        # uvicorn formats an access line per request even if its log level drops it.
        self.access_log = self.access_log and self.access_logger.isEnabledFor(logging.INFO)
        self._watcher.watch(self)

    def on_message_complete(self) -> None:
        """Resume reading after a whole body: uvicorn would notice a disconnect only after the response."""
        super().on_message_complete()
        self.flow.resume_reading()

    def on_refusal(self, status: int) -> None:
        """Report a head that was refused."""
        self._watcher.refused(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Mark the current request's client as gone and cancel the future that the request awaits."""
        super().connection_lost(exc)
        if self.cycle:
            scope: dict[str, Any] = self.cycle.scope  # type: ignore[assignment]
            scope[_GONE] = True
            if _AWAITED in scope:
                scope[_AWAITED].cancel()


def check_connected(scope: Scope) -> None:
    """Raise `RequestError` (499) if the client of the request of `scope` disconnected."""
    if _GONE in scope:
        raise RequestError(HUNG_UP, "the client disconnected.")


async def result_while_connected(scope: Scope, future: asyncio.Future[Result]) -> Result:
    """Await `future`; it is cancelled if the client of the request of `scope` disconnects.

    Raises:
        RequestError: 499 the client disconnected.
        Exception: the exception of the future.
    """
    scope[_AWAITED] = future
    del future  # its exception refers to this frame, and so to the body: the frame must not refer to it
    try:
        result: Result = await scope[_AWAITED]
        return result
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the request itself was cancelled
        raise RequestError(HUNG_UP, "the client disconnected.") from None
    finally:
        scope.pop(_AWAITED, None)


def raise_file_limit() -> None:
    """Raise this process's limit on open files, and thus on connections, to the system's maximum (Linux only)."""
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def close_idle(connections: Iterable[Any], before: Idle, now: float, seconds: float) -> Idle:
    """Close the connections that have been idle for longer than `seconds`.

    Args:
        connections: of one server; those of other protocols are left alone.
        before: result of the previous check.
        now: time of the event loop.
        seconds: timeout.

    Returns:
        the idle connections, for the next check.
    """
    idle: Idle = {}
    for connection in connections:
        if not isinstance(connection, HttpToolsProtocol) or not is_idle(connection):
            continue
        request, since = before.get(connection, (None, now))
        if request is not connection.cycle:
            since = now
        idle[connection] = connection.cycle, since
        if now - since > seconds:
            connection.transport.abort()
    return idle


def is_idle(connection: HttpToolsProtocol) -> bool:
    """Return whether the next step is the client's and no timeout of uvicorn's covers it.

    A request in progress is not idle, even while it waits for its body: `serving.web.bodies` has that timeout.
    """
    if connection.transport.is_closing() or connection.flow.write_paused:
        return True  # the client does not read the response
    answered = connection.cycle is None or connection.cycle.response_complete
    return answered and connection.timeout_keep_alive_task is None
