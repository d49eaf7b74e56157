"""uvicorn's HTTP protocol with three additions: it closes connections on which nothing moves, knows who hung up,
and reads no request while others of the same connection wait for their turn.

uvicorn closes a connection that stays idle after an answer. It waits without end for the first request, for the rest of
a request's head, for the rest of a body that was refused already, and for a client that does not take its answer.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Connections are looked at this many times within the seconds that they have.
LOOKS = 10

# Keys in a request's scope: the future to cancel when its client hangs up, and whether that has happened.
AWAITED, GONE = "digits.awaited", "digits.gone"

# The request that was current when a connection was first seen standing still, and when that was.
Still = dict[HttpToolsProtocol, tuple[Any, float]]


class PatientFlow(FlowControl):
    """uvicorn's flow control, but nothing is read while requests of the connection wait for their turn.

    uvicorn reads on as each is answered, and a client that sends requests without end and takes no answer fills the
    memory. Whatever is being answered while others wait has its body already.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Collection[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, unless there is enough to answer."""
        if not self._waiting:
            super().resume_reading()


class WatchedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, and from its first connection on one look at all connections every few seconds.

    Nothing is added per request: how long something stands still is known from the looks alone.
    """

    seconds: ClassVar[float]
    watching: ClassVar[bool] = False
    under_way: ClassVar[set[asyncio.Task[None]]] = set()  # the requests of all connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and have it looked at."""
        super().connection_made(transport)
        self.flow = PatientFlow(transport, self.pipeline)
        # uvicorn puts together a line for each request also where its level lets none through.
        self.access_log = self.access_log and self.access_logger.isEnabledFor(logging.INFO)
        if not WatchedProtocol.watching:
            WatchedProtocol.watching = True
            WatchedProtocol.under_way = self.tasks
            self._look({})

    def on_message_complete(self) -> None:
        """Read on when a body is whole: after a large one, uvicorn would see who hangs up only when it is answered."""
        super().on_message_complete()
        self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection; nobody waits for its request any more."""
        super().connection_lost(exc)
        if self.cycle:
            scope: dict[str, Any] = self.cycle.scope  # type: ignore[assignment]
            scope[GONE] = True
            if AWAITED in scope:
                scope[AWAITED].cancel()

    def _look(self, before: Still) -> None:
        still = close_still(self.connections, before, self.loop.time(), self.seconds)
        if self.connections:
            self.loop.call_later(self.seconds / LOOKS, self._look, still)
        else:
            WatchedProtocol.watching = False


def install(seconds: float) -> None:
    """Have every server that is started after this use the protocol; `seconds` is what a connection may stand still."""
    WatchedProtocol.seconds = seconds
    # BentoML starts uvicorn itself and leaves the protocol at "auto".
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{WatchedProtocol.__name__}"


def is_alone() -> bool:
    """Whether the request that is being answered is the only one; False also where it did not come over HTTP.

    uvicorn makes a task for each request as it reads them, before it lets the first task run: requests that have
    arrived together are seen together.
    """
    return len(WatchedProtocol.under_way) == 1


def allow_as_many_as_possible() -> None:
    """Raise this process's limit on open files, and so on connections, to what the system allows (Linux only)."""
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def close_still(connections: Iterable[Any], before: Still, now: float, seconds: float) -> Still:
    """Close the connections that stand still for longer than `seconds`.

    Args:
        connections: of one server, also such as speak another protocol.
        before: what the last look returned.
        now: the event loop's time.
        seconds: how long a connection may stand still.

    Returns:
        the connections that stand still, for the next look.
    """
    still: Still = {}
    for connection in connections:
        if not isinstance(connection, HttpToolsProtocol) or not stands_still(connection):
            continue
        request, since = before.get(connection, (None, now))
        if request is not connection.cycle:
            since = now
        still[connection] = connection.cycle, since
        if now - since > seconds:
            connection.transport.abort()
    return still


def stands_still(connection: HttpToolsProtocol) -> bool:
    """Whether the client of `connection` is to do something next, and no timer of uvicorn's waits for it.

    A request that is being answered does not count, nor does the body that it waits for.
    """
    if connection.transport.is_closing() or connection.flow.write_paused:
        return True  # the client does not take what was written
    answered = connection.cycle is None or connection.cycle.response_complete
    return answered and connection.timeout_keep_alive_task is None
