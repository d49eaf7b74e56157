"""Heads, trailers and upgrades: on uvicorn's real parser without a socket, and on a real service."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from serving.web.connections import Connections, WatchedProtocol
from serving.web.protocol import CHUNK_LINES, MALFORMED, MAX_HEAD_BYTES, MAX_HEADERS, NO_PROXY, TOO_LARGE
from tests.serving.asking import Digits, connect, serves, until_closed, value, worker
from tests.serving.conftest import Service

MEBIBYTE = 2**20
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
# As Java's HttpClient sends it.
UPGRADE = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
UPGRADE += b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: 5\r\n\r\n"
# The head of a POST, one byte larger than the limit with its value.
LARGE_VALUE = b"a" * (MAX_HEAD_BYTES - len("/" + "host: localhost\r\n" + "a: \r\n"))


class Wire(asyncio.Transport):
    """A transport that keeps everything that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.ended = False

    def write(self, data: Any) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the path, the headers and the body of the request."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    names = sorted(name.decode() for name, _ in scope["headers"])
    answer = json.dumps([scope["path"], names, body.decode()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def talk(loop: asyncio.AbstractEventLoop) -> Any:
    """Send packets over a connection of its own; returns status and JSON of each answer, and whether it is closed."""

    def send(*packets: bytes, pause: bool = True) -> tuple[list[tuple[int, Any]], bool]:
        protocol = WatchedProtocol(Connections(30), Config(echo, log_config=None), ServerState(), {}, loop)
        wire = Wire()
        protocol.connection_made(wire)
        for packet in packets:
            if wire.ended:
                break
            protocol.data_received(packet)
            if pause:
                loop.run_until_complete(asyncio.sleep(0.001))
        while protocol.pipeline and not wire.ended:
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.run_until_complete(asyncio.sleep(0.01))
        answers = []
        for answer in wire.sent.split(b"HTTP/1.1 ")[1:]:
            head, _, body = answer.partition(b"\r\n\r\n")
            answers.append((int(head[:3]), json.loads(body)))
        return answers, wire.ended

    return send


REFUSED = {
    "a value": ([GET + b"a: " + LARGE_VALUE + b"a\r\n\r\n"], TOO_LARGE),
    "a value in packets": ([GET, *[b"a: " + b"b" * 9000] * 10], TOO_LARGE),
    "a path": ([b"GET /" + b"a" * 40_000, b"a" * 40_000], TOO_LARGE),
    "a name": ([GET + b"a" * 40_000, b"a" * 40_000], TOO_LARGE),
    "headers": ([GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n"], TOO_LARGE),
    "headers without end": ([GET, *[b"a: b\r\n" * 1000] * 20], TOO_LARGE),
    "headers after an upgrade": (
        [UPGRADE.replace(b"\r\n\r\n", b"\r\n" + b"a: b\r\n" * MAX_HEADERS + b"\r\n")],
        TOO_LARGE,
    ),
    "trailers": ([CHUNKED + b"0\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n"], TOO_LARGE),
    "trailers without end": ([CHUNKED + b"0\r\n", *[b"a: b\r\n" * 1000] * 20], TOO_LARGE),
    "a chunk extension": ([CHUNKED, b"5;a=" + b"b" * 40_000, b"b" * 40_000], TOO_LARGE),
    "chunk extensions": ([CHUNKED, *[b"1;a=" + b"b" * 100 + b"\r\na\r\n"] * 800], TOO_LARGE),
    "no HTTP": ([b"\x16\x03\x01\x02\x00\x01"], MALFORMED),
    "a chunk without a length": ([CHUNKED, b"z\r\n"], MALFORMED),
    "CONNECT": ([b"CONNECT digits:443 HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\n\r\n"], NO_PROXY),
    "CONNECT with a path": ([b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", GET + b"\r\n"], NO_PROXY),
}


@pytest.mark.parametrize(("packets", "why"), REFUSED.values(), ids=REFUSED)
def test_request_outside_the_limits_ends_its_connection(talk: Any, packets: list[bytes], why: tuple[int, str]) -> None:
    status, sentence = why
    assert talk(*packets) == ([(status, {"error": sentence})], True)


ENDING = {
    "NUL": [b"\x00"],
    "no HTTP": [b"GARBAGE\r\n"],
    "a value": [GET + b"a: " + LARGE_VALUE, b"a\r\n\r\n"],
    "a value without end": [GET, *[b"a: " + b"b" * 9000] * 10],
}


@pytest.mark.parametrize("packets", ENDING.values(), ids=ENDING)
def test_earlier_requests_are_answered_before_the_connection_closes(talk: Any, packets: list[bytes]) -> None:
    answers, closed = talk((GET + b"\r\n") * 3000 + packets[0], *packets[1:], pause=False)
    assert [status for status, _ in answers] == [200] * 3000
    assert closed


ACCEPTED = {
    "the largest head": ([GET + b"a: " + LARGE_VALUE + b"\r\n\r\n"], 1),
    "the most headers": ([GET + b"a: b\r\n" * (MAX_HEADERS - 1) + b"\r\n"], 1),
    "the largest head after a large packet": ([(GET + b"\r\n") * 5000 + GET, b"a: " + LARGE_VALUE + b"\r\n\r\n"], 5001),
    "a head in bytes after a large packet": (
        [(GET + b"\r\n") * 5000, *[bytes([byte]) for byte in GET + b"\r\n"]],
        5001,
    ),
    "a large body": ([CHUNKED, *[b"8000\r\n" + b"a" * 0x8000 + b"\r\n"] * 50, b"0\r\n\r\n"], 1),
    "small chunks": ([CHUNKED, *[b"1\r\na\r\n"] * (2 * MAX_HEAD_BYTES // CHUNK_LINES), b"0\r\n\r\n"], 1),
}


@pytest.mark.parametrize(("packets", "count"), ACCEPTED.values(), ids=ACCEPTED)
def test_request_within_the_limits_is_answered(talk: Any, packets: list[bytes], count: int) -> None:
    answers, closed = talk(*packets, pause=len(packets) < 5)
    assert [status for status, _ in answers] == [200] * count
    assert not closed


def test_limits_apply_after_an_upgrade_in_the_same_packet(talk: Any) -> None:
    answers, closed = talk(UPGRADE + b"hello" + GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n")
    assert [body for _, (_, _, body) in answers] == ["hello"]
    assert closed


@pytest.mark.parametrize("wanted", [b"h2c", b"websocket", b"teleport"])
@pytest.mark.parametrize("pause", [True, False])
def test_upgrade_is_ignored_and_the_body_is_kept(talk: Any, wanted: bytes, pause: bool) -> None:
    head = UPGRADE.replace(b"h2c", wanted)
    for packets in (
        [head + b"hello"],
        [head, b"hello"],
        [head[:40], head[40:] + b"he", b"llo"],
        [head + b"hello" + head, b"hello"],
    ):
        answers, closed = talk(*packets, GET + b"\r\n", pause=pause)
        bodies = [body for _, (_, _, body) in answers]
        assert bodies == ["hello"] * (len(bodies) - 1) + [""]
        assert len(bodies) == b"".join(packets).count(b"POST") + 1
        assert not closed
    names = answers[0][1][1]
    assert names == ["connection", "content-length", "host", "http2-settings"]


def test_chunked_body_of_an_upgrade_is_kept(talk: Any) -> None:
    head = UPGRADE.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    answers, _ = talk((head + b"5\r\nhello\r\n0\r\n\r\n") * 2)
    assert [body for _, (_, _, body) in answers] == ["hello"] * 2


def test_trailers_do_not_pass_for_headers(talk: Any) -> None:
    (answer,), closed = talk(CHUNKED + b"5\r\nhello\r\n0\r\nContent-Type: text/plain\r\nHost: other\r\n\r\n")
    assert answer == (200, ["/", ["host", "transfer-encoding"], "hello"])
    assert not closed


ENDLESS = {
    "value": (GET + b"a: ", b"b" * 2**16),
    "headers": (GET, b"a: b\r\n" * 10_000),
    "path": (b"GET /", b"a" * 2**16),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
    "chunk extension": (CHUNKED + b"1;", b"a" * 2**16),
    "heads": (b"", (GET + b"a: " + b"b" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n")),
}


@pytest.mark.parametrize(("start", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_head_without_end_takes_no_memory(service: Service, test_digits: Digits, start: bytes, piece: bytes) -> None:
    process = worker(service)
    assert serves(service, test_digits)
    before, refused = process.memory_info().rss, value(service, "digits_rejected_total", reason="head_too_large")
    start = start.replace(b" / ", b" /predict/raw ")
    with closing(connect(service, start)) as connection:
        sent = 0
        with suppress(ConnectionError):
            while sent < 64 * MEBIBYTE:
                connection.sendall(piece)
                sent += len(piece)
        answer = until_closed(connection)
    assert sent < 16 * MEBIBYTE
    assert process.memory_info().rss < before + 16 * MEBIBYTE
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert value(service, "digits_rejected_total", reason="head_too_large") == refused + 1
    assert serves(service, test_digits)


def test_client_reads_why_its_head_was_refused(service: Service) -> None:
    with closing(connect(service)) as connection:
        connection.sendall(GET + b"a: " + b"b" * (MEBIBYTE // 2) + b"\r\n\r\n")
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large")
    assert json.loads(body) == {"error": TOO_LARGE[1]}


@pytest.mark.parametrize("packets", [1, 2])
def test_predictions_ignore_an_upgrade(service: Service, test_digits: Digits, packets: int) -> None:
    head = (
        UPGRADE.replace(b" / ", b" /predict/raw ").replace(b": 5", b": 784").replace(b"Upgrade, ", b"close, Upgrade, ")
    )
    body = test_digits[0][0].tobytes()
    with closing(connect(service, head + body if packets == 1 else head)) as connection:
        if packets == 2:
            assert serves(service, test_digits)
            connection.sendall(body)
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    (digit,) = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert digit["digit"] == test_digits[1][0]
