"""The open-loop client, against a small server that answers, delays, refuses or hangs up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.soak.client import Counters, Kind, OpenLoop, request


@asynccontextmanager
async def server(answer: str, delay: float = 0.0) -> AsyncIterator[int]:
    """Answers each GET after a delay with this text; an empty one closes the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(delay)
                if not answer:
                    return
                writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nok".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()


def ask(answer: str, *, rate: float = 0, clients: int = 0, seconds: float = 0.5, delay: float = 0.0) -> Counters:
    async def measure() -> Counters:
        async with server(answer, delay) as port:
            loop = OpenLoop(port, [Kind("a", 1.0, request("/a"))])
            counters = await (loop.run(rate, seconds) if rate else loop.run_closed(clients, seconds))
            loop.close()
            return counters

    return asyncio.run(measure())


def test_rate_is_kept_while_answers_are_slow() -> None:
    counters = ask("200 OK", rate=100, delay=0.3)
    assert 40 <= counters.due <= 50
    assert counters.answered == counters.due
    assert counters.errors == 0
    assert min(counters.milliseconds["a"]) >= 300


def test_statuses_are_counted_and_have_no_time() -> None:
    counters = ask("503 Service Unavailable", rate=100)
    assert counters.statuses == {503: counters.due}
    assert counters.errors == counters.due
    assert not counters.milliseconds


def test_hung_up_connections_count_as_lost() -> None:
    counters = ask("", rate=50)
    assert counters.lost == counters.due > 0


def test_requests_without_a_free_connection_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soak.client.CONNECTIONS", 2)
    counters = ask("200 OK", rate=100, delay=0.2)
    assert counters.unsent > 0
    assert counters.lost == 0
    assert counters.answered + counters.unsent == counters.due


def test_time_counts_from_when_a_request_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soak.client.CONNECTIONS", 1)
    counters = ask("200 OK", rate=20, delay=0.1)
    assert max(counters.milliseconds["a"]) > 2 * 100


def test_closed_loop_measures_what_the_server_can_do() -> None:
    counters = ask("200 OK", clients=4, delay=0.1)
    assert 12 <= counters.answered <= 24
    assert counters.errors == 0
