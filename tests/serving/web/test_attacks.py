"""A list of attacks over HTTP against a real service: each gets its answer, and the service is as before afterwards."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.serving.asking import Digits, bomb, connect, serves, until_closed, worker
from tests.serving.conftest import Service

MEBIBYTE = 2**20
GROWTH_BYTES = 64 * MEBIBYTE
BODY = bytes(784)


class Attack(NamedTuple):
    """Packets of one connection, and the statuses of all responses until the service closes it."""

    packets: Any
    statuses: list[int]


def request(line: str, *headers: str, body: bytes = b"", closes: bool = True) -> bytes:
    lines = [line, "Host: localhost", *headers, *(["Connection: close"] if closes else []), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def predict(*headers: str, body: bytes = BODY, closes: bool = True) -> bytes:
    kind = "Content-Type: application/octet-stream"
    return request("POST /predict/raw HTTP/1.1", kind, *headers, body=body, closes=closes)


def posted(path: str, kind: str, body: bytes) -> bytes:
    headers = f"Content-Type: {kind}", f"Content-Length: {len(body)}"
    return request(f"POST {path} HTTP/1.1", *headers, body=body)


def form(picture: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return posted("/predict/files", "multipart/form-data; boundary=b", head + picture + b"\r\n--b--\r\n")


LENGTH, CHUNKED = "Content-Length: 784", "Transfer-Encoding: chunked"
CHUNK = b"310\r\n" + BODY + b"\r\n0\r\n\r\n"
HIDDEN = request("GET /hidden HTTP/1.1")
MODEL = request("GET /model HTTP/1.1")
UPGRADE = predict(LENGTH, "Connection: Upgrade", "Upgrade: h2c", body=b"")
OPEN = predict(CHUNKED, body=b"", closes=False)

SMUGGLING = {
    "two equal lengths": predict(LENGTH, LENGTH),
    "two lengths": predict(LENGTH, "Content-Length: 0"),
    "a list of lengths": predict("Content-Length: 784, 784"),
    "a signed length": predict("Content-Length: +784"),
    "a negative length": predict("Content-Length: -1"),
    "a length in hexadecimal": predict("Content-Length: 0x310"),
    "a length beyond 64 bits": predict("Content-Length: 18446744073709552400"),
    "an empty length": predict("Content-Length:"),
    "length, then chunks": predict(LENGTH, CHUNKED, body=CHUNK),
    "chunks, then length": predict(CHUNKED, LENGTH, body=CHUNK),
    "an unknown coding": predict("Transfer-Encoding: xchunked", body=CHUNK),
    "a coding after chunked": predict("Transfer-Encoding: chunked, identity", body=CHUNK),
    "line feeds alone": predict(LENGTH).replace(b"\r\n", b"\n"),
    "a line feed alone in the head": predict("a: b\nContent-Length: 784"),
    "a carriage return alone in the head": predict("a: b\rContent-Length: 784"),
    "NUL in a value": predict("a: b\0c", LENGTH),
    "NUL in a name": predict("a\0: b", LENGTH),
    "a folded header": predict("a: b\r\n c", LENGTH),
    "a folded length": predict("Content-Length:\r\n 784"),
    "a space before the colon": predict("Content-Length : 784"),
    "a space before the name": predict(" Content-Length: 784"),
    "a header without colon": predict("Content-Length 784"),
    "a chunk beyond 64 bits": predict(CHUNKED, body=b"fffffffffffffffff\r\n"),
    "a negative chunk": predict(CHUNKED, body=b"-1\r\n"),
    "a chunk with 0x": predict(CHUNKED, body=b"0x310\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk with a line feed alone": predict(CHUNKED, body=CHUNK.replace(b"\r\n", b"\n")),
    "a chunk longer than its length": predict(CHUNKED, body=b"10\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "no version": b"GET /model\r\n\r\n",
    "version 9.9": MODEL.replace(b"1.1", b"9.9"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303"),
    "CONNECT": request("CONNECT localhost:22 HTTP/1.1") + MODEL,
    "a byte beyond ASCII in the path": request("GET /\xff HTTP/1.1"),
    "a space in the path": request("GET /mod el HTTP/1.1"),
    "no host": MODEL.replace(b"Host: localhost\r\n", b""),
    "two hosts": request("GET /model HTTP/1.1", "Host: localhost"),
}

ATTACKS = {
    **{name: Attack([sent], [400]) for name, sent in SMUGGLING.items()},
    "a request after the body": Attack([predict(LENGTH, closes=False) + HIDDEN], [200, 404]),
    "a request in the body": Attack([predict(f"Content-Length: {len(HIDDEN)}", body=HIDDEN)], [422]),
    "a length that is too small": Attack([predict("Content-Length: 783", closes=False)], [422]),
    "another host": Attack([MODEL.replace(b"localhost", b"evil.example")], [421]),
    "a head that is too long": Attack([request("GET /model HTTP/1.1", "a: " + "b" * 2**17)], [431]),
    "too many headers": Attack([request("GET /model HTTP/1.1", *["a: b"] * 101)], [431]),
    "a path that is too long": Attack([request(f"GET /{'a' * 2**17} HTTP/1.1")], [431]),
    "trailers without end": Attack(chain([OPEN, b"0\r\n"], repeat(b"a: b\r\n" * 99, 200)), [431]),
    "a chunk extension without end": Attack(chain([OPEN, b"1;a="], repeat(b"b" * 2**12, 200)), [431]),
    "headers in trailers": Attack([predict(CHUNKED, body=CHUNK[:-2] + b"Content-Type: a/b\r\nHost: b\r\n\r\n")], [200]),
    "HTTP/2 by upgrade, one packet": Attack([UPGRADE + BODY], [200]),
    "HTTP/2 by upgrade, two packets": Attack([UPGRADE, BODY], [200]),
    "WebSocket": Attack([UPGRADE.replace(b"h2c", b"websocket"), BODY], [200]),
    "an unknown upgrade": Attack([UPGRADE.replace(b"h2c", b"TLS/1.0") + BODY], [200]),
    "a request behind an upgrade": Attack([UPGRADE.replace(b"close", b"a") + BODY + HIDDEN], [200, 404]),
    "thousands of requests at once": Attack(
        [request("GET /model HTTP/1.1", closes=False) * 3000 + MODEL], [200] * 3001
    ),
    "TRACE": Attack([request("TRACE /model HTTP/1.1", "a: secret")], [405]),
    "DELETE": Attack([request("DELETE /model HTTP/1.1")], [405]),
    "OPTIONS *": Attack([request("OPTIONS * HTTP/1.1")], [404]),
    **{
        f"the path {path}": Attack([request(f"GET {path} HTTP/1.1")], [404])
        for path in (
            *(
                "//model",
                "/model/",
                "/MODEL",
                "/./model",
                "/draw/../model",
                "/model;a",
                "/model%00",
                "/model%0d%0aa:%20b",
            ),
            *(
                "/draw/..%2f..%2fservice.py",
                "/draw/%2e%2e/%2e%2e/service.py",
                "/static_content/%2e%2e/%2e%2e/etc/passwd",
            ),
            *("/..%5c..%5cetc/passwd", "/draw/....//service.py", "/file:///etc/passwd"),
        )
    },
    "a whole address as path": Attack([request("GET http://localhost/model HTTP/1.1")], [200]),
    "Expect": Attack([predict(LENGTH, "Expect: 100-continue", body=b""), BODY], [100, 200]),
    "an unknown expectation": Attack([predict(LENGTH, "Expect: 200-ok")], [200]),
    "Expect for a refused body": Attack([predict("Content-Length: 99999999", "Expect: 100-continue", body=b"")], [413]),
    "a head that never ends": Attack([MODEL[:-2]], []),
    "a body that never comes": Attack([predict(LENGTH, body=b"")], [408]),
    "a decompression bomb": Attack([predict(LENGTH, "Content-Encoding: gzip")], [415]),
    "a picture of 60,000 x 60,000": Attack([form(bomb())], [413]),
    "JSON of 100,000 levels": Attack([posted("/predict", "application/json", b"[" * 100_000)], [400]),
    "JSON of 5 million lists": Attack(
        [posted("/predict", "application/json", b"[" + b"[]," * 5_000_000 + b"0]")], [413]
    ),
    "a form of 100,000 parts": Attack(
        [posted("/explain", "multipart/form-data; boundary=b", b"--b\r\n" * 100_000)], [400]
    ),
}


@pytest.fixture(scope="module")
def target(start_service: Callable[..., Any], model_file: Path) -> Iterator[Service]:
    with start_service(SERVING_MODEL=model_file, SERVING_CLIENT_SECONDS=3) as ready:
        ready.wait_for(200)
        yield ready


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_gets_its_answer_and_changes_nothing(target: Service, test_digits: Digits, name: str) -> None:
    packets, statuses = ATTACKS[name]
    process = worker(target)
    assert serves(target, test_digits)
    before = process.memory_info().rss
    with closing(connect(target)) as connection:
        with suppress(ConnectionError):
            for packet in packets:
                connection.sendall(packet)
        received = until_closed(connection)
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)] == statuses
    if statuses and statuses[-1] >= 400:
        (sentence,) = json.loads(received.rpartition(b"\r\n\r\n")[2]).values()
        assert sentence.endswith(".")
    assert b"secret" not in received
    assert b"root:" not in received
    assert serves(target, test_digits)
    assert worker(target) == process
    assert process.memory_info().rss < before + GROWTH_BYTES
    assert "Traceback" not in target.log.read_text()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="the machine has no IPv6")
def test_service_on_ipv6_checks_hosts_as_well(start_service: Callable[..., Any], model_file: Path) -> None:
    with start_service("::1", SERVING_MODEL=model_file) as service:
        service.wait_for(200)
        assert service.client.get("/model").status_code == 200
        for host, status in (("[::1]", 200), ("localhost", 200), ("[::2]", 421), ("evil.example", 421)):
            assert service.client.get("/model", headers={"host": host}).status_code == status
