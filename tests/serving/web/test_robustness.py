"""Misbehaving clients against a real service: they get a response or are closed, and all others are served."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from serving.web.bodies import LARGEST_AT_ONCE
from tests.processes import wait_until
from tests.serving.asking import JSON, RAW, ask, bomb, connect, sentence, serves, until_closed, value, worker
from tests.serving.conftest import Service

Digits = tuple[np.ndarray, np.ndarray]
MEBIBYTE = 2**20
IMAGE = [[0] * 28] * 28
HEAD = b"POST /predict/raw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
TRICKLING = HEAD + b"Content-Length: 784\r\n\r\n" + bytes(100)


@pytest.fixture(scope="module")
def hasty(start_service: Callable[..., Any], model_file: Path) -> Iterator[Service]:
    """A service with a timeout of one second and a small limit for bodies."""
    with start_service(SERVING_MODEL=model_file, SERVING_CLIENT_SECONDS=1, SERVING_MAX_BODY_BYTES=MEBIBYTE) as ready:
        ready.wait_for(200)
        yield ready


def test_slow_body_gets_408_and_is_closed(hasty: Service, test_digits: Digits) -> None:
    with closing(connect(hasty, TRICKLING)) as connection:
        assert serves(hasty, test_digits)
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close" in head.lower()
    assert b"\r\nx-model-version: " in head.lower()
    assert json.loads(body) == {"error": "the body did not arrive within 1 seconds (SERVING_CLIENT_SECONDS)."}


@pytest.mark.parametrize("answered", [b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"])
@pytest.mark.parametrize("sent", [b"", b"POST /predict HTTP/1.1\r\nHost: loc"])
def test_idle_connection_is_closed(hasty: Service, test_digits: Digits, answered: bytes, sent: bytes) -> None:
    with closing(connect(hasty, answered)) as connection:
        if answered:
            assert connection.recv(12) == b"HTTP/1.1 200"
        connection.sendall(sent)
        until_closed(connection)
    assert serves(hasty, test_digits)


def test_connection_is_closed_when_a_refused_body_continues(hasty: Service, test_digits: Digits) -> None:
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with closing(connect(hasty, head)) as connection, pytest.raises(ConnectionError):
        while True:
            connection.sendall(chunk)
    assert serves(hasty, test_digits)


PIPELINED = {
    "documents": b"GET /docs.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100,
    "images": (HEAD + b"Content-Length: 784\r\n\r\n" + bytes(784)) * 100,
}


@pytest.mark.parametrize("requests", PIPELINED.values(), ids=PIPELINED)
def test_client_that_reads_no_response_is_closed(hasty: Service, test_digits: Digits, requests: bytes) -> None:
    process = worker(hasty)
    before = process.memory_info().rss
    with closing(connect(hasty)) as connection, pytest.raises(ConnectionError):
        while True:
            connection.sendall(requests)
            assert process.memory_info().rss < before + 100 * 2**20
    assert worker(hasty) == process
    assert serves(hasty, test_digits)


def test_pipelined_requests_are_answered_in_order(service: Service, test_digits: Digits) -> None:
    counts = [1, 300, 2, 40, *range(1, 60), 700, 3]
    with closing(connect(service)) as connection:
        for index, count in enumerate(counts):
            head = HEAD if index + 1 < len(counts) else HEAD + b"Connection: close\r\n"
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % (784 * count))
            connection.sendall(test_digits[0][:count].tobytes())
        answers = until_closed(connection).split(b"HTTP/1.1 200 ")[1:]
    assert [len(json.loads(answer.partition(b"\r\n\r\n")[2])) for answer in answers] == counts


def test_disconnects_leave_no_open_files_or_tracebacks(service: Service, test_digits: Digits) -> None:
    process, images = worker(service), test_digits[0]
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % images.nbytes + images.tobytes()
    assert serves(service, test_digits)
    before = process.num_fds()
    for sent in (b"", HEAD, TRICKLING, whole[:-1], whole) * 20:
        connect(service, sent).close()
    assert serves(service, test_digits)
    with httpx.stream("POST", f"{service.url}/predict/raw", content=images.tobytes(), headers=RAW) as answer:
        next(answer.iter_raw(1))
    assert serves(service, test_digits)
    assert process.num_fds() <= before + 5
    assert "Traceback" not in service.log.read_text()


def test_requests_of_disconnected_clients_are_not_computed(
    start_service: Callable[..., Any], model_file: Path, test_digits: Digits
) -> None:
    images = np.concatenate([test_digits[0], test_digits[0][:24]])
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % images.nbytes + images.tobytes()
    explained = json.dumps({"images": test_digits[0][:1].tolist()}).encode()
    explain = b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    explain += b"Content-Length: %d\r\n\r\n" % len(explained) + explained
    with start_service(SERVING_MODEL=model_file) as service:
        service.wait_for(200)
        for sent in [whole] * 4 + [explain] * 10:
            connect(service, sent).close()

        def answered() -> float:
            return sum(
                value(service, "bentoml_service_request_total", endpoint=at) for at in ("/predict/raw", "/explain")
            )

        wait_until(lambda: answered() == 14, "the end of all requests")
        assert value(service, "digits_queue_images") == 0
        assert value(service, "digits_predicted_total") < 2 * len(images)
        for endpoint in ("/predict/raw", "/explain"):
            gone = {"endpoint": endpoint, "http_response_code": "499"}
            assert value(service, "bentoml_service_request_total", **gone) >= 2
        assert value(service, "digits_rejected_total", reason="hung_up") >= 4
        assert serves(service, test_digits)


def test_hundreds_of_idle_connections_delay_no_request(service: Service, test_digits: Digits) -> None:
    process = worker(service)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    assert soft == hard
    before = process.memory_info().rss
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(service))) for _ in range(400)]
        for connection in connections[::2]:
            connection.sendall(TRICKLING)
        assert serves(service, test_digits)
        assert service.client.get("/livez").status_code == 200
        wait_until(lambda: process.num_fds() >= len(connections), "all connections being accepted")
        assert process.memory_info().rss < before + 32 * MEBIBYTE
        for connection in connections[::2]:
            connection.sendall(bytes(684))
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in connections[::2])


def test_unfinished_bodies_share_a_memory_limit(hasty: Service, test_digits: Digits) -> None:
    process, large = worker(hasty), HEAD + b"Content-Length: %d\r\n\r\n" % MEBIBYTE
    before = process.memory_info().rss
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(hasty, large))) for _ in range(64)]
        for connection in connections:
            connection.sendall(bytes(MEBIBYTE - 1))
        assert process.memory_info().rss < before + 8 * LARGEST_AT_ONCE * MEBIBYTE
        statuses = {until_closed(connection)[9:12] for connection in connections}
    assert statuses == {b"408", b"503"}
    assert serves(hasty, test_digits)


def test_small_bodies_that_would_expand_are_refused(service: Service, test_digits: Digits) -> None:
    process = worker(service)
    bodies = [
        b'{"images": [' + b"[]," * (5 * MEBIBYTE) + b"[]]}",
        b'{"images": [' + b"{}," * (5 * MEBIBYTE) + b"{}]}",
        b'{"images": [' + b"0.5," * (4 * MEBIBYTE - 100) + b"0]}",
    ]
    assert serves(service, test_digits)
    before = process.memory_info().rss
    for body in bodies:
        answer = service.client.post("/predict", content=body, headers=JSON)
        assert answer.status_code == 413
        assert "more values than 1024 images (SERVING_MAX_IMAGES)" in sentence(answer)
    answer = service.client.post("/predict/files", files=[("files", ("a.png", bomb()))])
    assert answer.status_code == 413
    assert "60000x60000" in sentence(answer)
    assert process.memory_info().rss < before + 100 * MEBIBYTE


@pytest.mark.parametrize(
    ("route", "content", "headers", "status"),
    [
        ("/predict", b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400),
        ("/predict", json.dumps({"images": [IMAGE]}).encode().replace(b"0", b"NaN", 1), JSON, 400),
        ("/predict", json.dumps({"images": [IMAGE]}).encode().replace(b"0", b"1e400", 1), JSON, 400),
        ("/predict", b"\xef\xbb\xbf{}", JSON, 400),
        ("/predict", "{}".encode("utf-16"), JSON, 400),
        ("/predict", gzip.compress(json.dumps({"images": [IMAGE]}).encode(), mtime=0), JSON, 400),
        ("/predict", gzip.compress(b"{}", mtime=0), {**JSON, "content-encoding": "GZip"}, 415),
        ("/predict", b"{}", {"content-type": ""}, 415),
        ("/predict", b"{}", {"content-type": "application/json-seq"}, 415),
        ("/predict", b"{}", {"content-type": "application/json" * 1000}, 415),
        ("/predict/files", gzip.compress(bytes(784), mtime=0), RAW, 415),
        ("/predict/files", b"--b\r\n" * 100_000, {"content-type": "multipart/form-data; boundary=b"}, 400),
        ("/predict/files", b"", {"content-type": "multipart/form-data; boundary=" + "b" * 5000}, 400),
    ],
)
def test_malformed_bodies_get_an_error(
    service: Service, route: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = service.client.post(route, content=content, headers=headers)
    assert answer.status_code == status
    assert sentence(answer)


def test_last_of_two_equal_fields_counts(service: Service, test_digits: Digits) -> None:
    images = json.dumps(test_digits[0][:2].tolist())
    answer = service.client.post("/predict", content=f'{{"images": 7, "images": {images}}}', headers=JSON)
    assert answer.json() == ask(service, "/predict", test_digits[0][:2]).json()
