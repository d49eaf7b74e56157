"""Idle connections, without a server; tests/serving/web/test_robustness.py covers a real service."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serving.web.connections import Connections, WatchedProtocol, close_idle
from tests.processes import ROOT

REQUEST = b"GET / HTTP/1.1\r\nHost: digits\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport whose other end never reads."""

    aborted = closing = False

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        pass


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def connected(loop: asyncio.AbstractEventLoop, *pieces: bytes) -> HttpToolsProtocol:
    """A connection that received these pieces, each after the response to the previous ones."""
    protocol = HttpToolsProtocol(Config(application, log_config=None), ServerState(), {}, loop)
    protocol.connection_made(Wire())
    for piece in pieces:
        protocol.data_received(piece)
        loop.run_until_complete(asyncio.sleep(0.01))
    return protocol


def is_closed(protocol: HttpToolsProtocol) -> bool:
    wire = protocol.transport
    assert isinstance(wire, Wire)
    return wire.aborted


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"GET / HT",),
        (REQUEST, b"GET / HT"),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n"), b"a"),
    ],
    ids=["no request", "half a head", "half a head after a response", "half a body after its response"],
)
def test_idle_connection_is_closed_after_the_timeout(
    loop: asyncio.AbstractEventLoop, pieces: tuple[bytes, ...]
) -> None:
    protocol = connected(loop, *pieces)
    idle = close_idle([protocol], {}, 100, 3)
    idle = close_idle([protocol], idle, 103, 3)
    assert not is_closed(protocol)
    close_idle([protocol], idle, 103.1, 3)
    assert is_closed(protocol)


@pytest.mark.parametrize("reason", ["closing", "write paused"])
def test_connection_with_an_unread_response_is_idle(loop: asyncio.AbstractEventLoop, reason: str) -> None:
    protocol = connected(loop, REQUEST)
    assert close_idle([protocol], {}, 100, 3) == {}
    if reason == "closing":
        protocol.transport.close()
    else:
        protocol.pause_writing()
    close_idle([protocol], close_idle([protocol], {}, 100, 3), 104, 3)
    assert is_closed(protocol)


@pytest.mark.parametrize("piece", [REQUEST, REQUEST.replace(b"/", b"/slow", 1)], ids=["answered", "being answered"])
def test_connection_that_waits_for_the_service_or_has_a_timer_is_left_alone(
    loop: asyncio.AbstractEventLoop, piece: bytes
) -> None:
    protocol = connected(loop, piece)
    assert close_idle([protocol], {}, 100, 3) == {}


def test_timeout_restarts_after_each_request(loop: asyncio.AbstractEventLoop) -> None:
    protocol = connected(loop, b"GET / HT")
    idle = close_idle([protocol], {}, 100, 3)
    for piece in (REQUEST[8:], b"GET / HT"):
        protocol.data_received(piece)
        loop.run_until_complete(asyncio.sleep(0.01))
    idle = close_idle([protocol], idle, 104, 3)
    assert not is_closed(protocol)
    close_idle([protocol], idle, 108, 3)
    assert is_closed(protocol)


def test_connections_of_another_protocol_are_left_alone() -> None:
    assert close_idle([object()], {}, 100, 3) == {}


def test_requests_that_arrived_together_are_not_alone(loop: asyncio.AbstractEventLoop) -> None:
    connections = Connections(30)
    seen = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connections.is_alone())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    state = ServerState()
    protocols = [WatchedProtocol(connections, Config(note, log_config=None), state, {}, loop) for _ in range(3)]
    for protocol in protocols:
        protocol.connection_made(Wire())
    assert not connections.is_alone()  # no request yet
    for senders in ([0], [0, 1, 2], [1]):
        for each in senders:
            protocols[each].data_received(REQUEST)  # one after the other, before any of their tasks runs
        loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == [True, False, False, False, True]


@pytest.mark.slow
def test_warning_of_uvicorn_is_logged_once() -> None:
    code = """
import logging
from bentoml._internal.log import configure_server_logging
from serving.web.connections import Connections
configure_server_logging()
Connections(30).install()
logging.getLogger("uvicorn.error").warning("a warning")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ended.stdout + ended.stderr).count("a warning") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is raised on Linux only")
def test_low_limit_on_open_files_is_raised() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = f"""
import resource
from serving.web.connections import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {most}))
raise_file_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(most)] * 2
