"""An open-loop HTTP client: it sends requests at a given rate, however long the answers take.

A client that waits for each answer before it sends the next one slows down together with the server, and so hides the
delays. Here, the time of each request counts from the moment at which it was due. httptools and bare asyncio protocols
send about five times as many requests a second as httpx or aiohttp, so that one core overloads the service.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

CONNECTIONS = 1000  # most connections at once; requests that are due meanwhile wait for one
ANSWER_SECONDS = 30.0  # a request without an answer by then, after the end of the period, is lost
TICK = 0.005  # seconds between two looks at what is due
# The service closes a connection that is idle for five seconds; a request sent at that moment would be lost.
IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        name: shown in the table.
        share: part of all requests, 0 to 1.
        content: head and body, as they go over the connection.
    """

    name: str
    share: float
    content: bytes


def request(path: str, content_type: str = "", body: bytes = b"") -> bytes:
    """The bytes of an HTTP/1.1 request: a GET without a content type, otherwise a POST."""
    head = f"{'POST' if content_type else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if content_type:
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass
class Counters:
    """Results of the requests that were due within one period.

    Attributes:
        due: requests that were due.
        unsent: those of them for which no connection was free until the end of the period.
        statuses: number of answers, by status.
        lost: connections that ended before the answer.
        milliseconds: time from when a request was due to its answer, for answers with status 200, by kind.
    """

    due: int = 0
    unsent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Answers with status 200."""
        return self.statuses[200]

    @property
    def errors(self) -> int:
        """Lost requests, and answers with another status than 200."""
        return self.lost + self.statuses.total() - self.answered


class OpenLoop:
    """Sends a mix of requests to a server of this machine.

    Args:
        port: of 127.0.0.1.
        kinds: the mix; shares that add up to 1.
        seed: decides the order of the kinds.
    """

    def __init__(self, port: int, kinds: Sequence[Kind], seed: int = 1) -> None:
        self._port = port
        self._kinds = kinds
        self._random = random.Random(seed)  # noqa: S311, it decides an order
        self._idle: list[_Connection] = []
        self._waiting: deque[tuple[Kind, float]] = deque()
        self._open = 0
        self.counters = Counters()

    async def run(self, rate: float, seconds: float) -> Counters:
        """Send `rate` requests a second for `seconds`, then wait for the last answers."""
        self.counters = counters = Counters()
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            for number in range(counters.due, int(passed * rate)):
                counters.due += 1
                self._send(self._choose(), began + number / rate)
            while self._idle and self._idle[0].since < time.perf_counter() - IDLE_SECONDS:
                self._idle.pop(0).close()
            await asyncio.sleep(TICK)
        await self._drain(counters)
        return counters

    async def run_closed(self, clients: int, seconds: float) -> Counters:
        """Keep `clients` requests in progress for `seconds`: the rate of answers is the capacity."""
        self.counters = counters = Counters()
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            while counters.due - counters.statuses.total() - counters.lost < clients:
                counters.due += 1
                self._send(self._choose(), time.perf_counter())
            await asyncio.sleep(0)
        await self._drain(counters)
        return counters

    def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _choose(self) -> Kind:
        return self._random.choices(self._kinds, [kind.share for kind in self._kinds])[0]

    async def _drain(self, counters: Counters) -> None:
        counters.unsent = len(self._waiting)
        self._waiting.clear()
        until = time.perf_counter() + ANSWER_SECONDS
        sent = counters.due - counters.unsent
        while counters.statuses.total() + counters.lost < sent and time.perf_counter() < until:
            await asyncio.sleep(TICK)
        counters.lost = sent - counters.statuses.total()

    def _send(self, kind: Kind, due: float) -> None:
        if self._idle:
            self._idle.pop().send(kind, due)
        elif self._open < CONNECTIONS:
            self._open += 1
            task = asyncio.ensure_future(self._connect(kind, due))
            task.add_done_callback(lambda done: done.exception())
        else:
            self._waiting.append((kind, due))

    async def _connect(self, kind: Kind, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError:
            self.lost(self.counters)
            self._open -= 1
            return
        connection.send(kind, due)

    def answered(self, connection: "_Connection", counters: Counters, kind: Kind, due: float, status: int) -> None:
        """Count an answer, and give the connection its next request."""
        counters.statuses[status] += 1
        if status == 200:
            counters.milliseconds.setdefault(kind.name, []).append(1000 * (time.perf_counter() - due))
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            connection.since = time.perf_counter()
            self._idle.append(connection)

    def lost(self, counters: Counters) -> None:
        """Count a request without an answer."""
        counters.lost += 1

    def closed(self, connection: "_Connection") -> None:
        """Forget a connection that has ended."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, owner: OpenLoop) -> None:
        self._owner = owner
        self.since = 0.0  # the end of its last request
        self._current: tuple[Counters, Kind, float] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, kind: Kind, due: float) -> None:
        self._current = self._owner.counters, kind, due
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(kind.content)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._current:
            current, self._current = self._current, None
            self._owner.answered(self, *current, status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._current:
            self._owner.lost(self._current[0])
        self._owner.closed(self)

    def close(self) -> None:
        self._transport.abort()
