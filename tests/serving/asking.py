"""Requests to a running service, and readers of its responses."""

import io
import socket
import zlib

import httpx
import numpy as np
import psutil
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Service

Digits = tuple[np.ndarray, np.ndarray]
JSON = {"content-type": "application/json"}
RAW = {"content-type": "application/octet-stream"}


def png(digit: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(digit).save(content, "PNG")
    return content.getvalue()


def bomb() -> bytes:
    """A small PNG whose header declares 60,000 x 60,000 pixels."""
    content = bytearray(png(np.zeros((28, 28), np.uint8)))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def ask(service: Service, route: str, images: np.ndarray) -> httpx.Response:
    if route == "/predict":
        return service.client.post(route, json={"images": images.tolist()})
    if route == "/predict/raw":
        return service.client.post(route, content=images.tobytes(), headers=RAW)
    return service.client.post(route, files=[("files", (f"{n}.png", png(image))) for n, image in enumerate(images)])


def sentence(answer: httpx.Response) -> str:
    """Return the sentence of an error response, after checking its form and headers."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"]
    assert len(answer.headers["x-bentoml-request-id"]) == 16
    (text,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert text.endswith(".")
    assert "\n" not in text
    return str(text)


def value(service: Service, name: str, **labels: str) -> float:
    """Return the sum of the samples with this name and these labels over all workers."""
    families = text_string_to_metric_families(service.client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def connect(service: Service, sent: bytes = b"") -> socket.socket:
    """A connection with a small receive buffer."""
    url = httpx.URL(service.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((url.host, url.port))
    connection.sendall(sent)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """Return everything that the service sends until it closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionError:
        pass
    return received


def worker(service: Service) -> psutil.Process:
    (process,) = service.workers
    return process


def serves(service: Service, test_digits: Digits) -> bool:
    return len(ask(service, "/predict", test_digits[0][:3]).json()) == 3
