"""Clients that ask one question after another, check every answer, and know which worker each one talks to."""

import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

CLIENTS = 8
IMAGES = 4  # in one request, by default
# Between two requests of a client. Without it, the load would take the cores from what is restarted meanwhile.
PAUSE_SECONDS = 0.02
RECONNECT = 0.02  # the share of requests after which a client opens another connection
ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Request:
    """One request and its end.

    Attributes:
        port: the client's end of the connection; 0 if there was no connection.
        began: time before its first byte was sent.
        ended: time of its answer or of the end of its connection.
        status: of the answer, None without one.
        right: whether the answer has the digits that the model reads.
        version: the model that answered.
        problem: with the connection, empty if there was none.
    """

    port: int
    began: float
    ended: float
    status: int | None = None
    right: bool = False
    version: str = ""
    problem: str = ""


class Load:
    """Load on a service from this block's start to its end; afterwards, `requests` has every request.

    Args:
        url: of the service.
        images: uint8 [n, 28, 28].
        digits: what the model reads on them.
        seed: of the choice of images.
        pause: seconds between two requests of a client.
        size: number of images in a request.
    """

    def __init__(
        self, url: str, images: np.ndarray, digits: Sequence[int], seed: int, pause: float = PAUSE_SECONDS,
        size: int = IMAGES,
    ) -> None:  # fmt: skip
        self._pause, self._size = pause, size
        self._port = int(url.rpartition(":")[2])
        self._images, self._digits = images, list(digits)
        self._stopping = threading.Event()
        self._clients = [threading.Thread(target=self._ask, args=(seed + client,)) for client in range(CLIENTS)]
        self.requests: list[Request] = []

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more requests, and wait for the answers."""
        self._stopping.set()
        for client in self._clients:
            client.join()

    def run_for(self, answers: int) -> None:
        """Wait for this many more requests to end."""
        until = len(self.requests) + answers
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(self.requests) < until:
            assert time.monotonic() < deadline, f"fewer than {answers} requests ended in {ANSWER_SECONDS} s"
            time.sleep(0.01)

    @property
    def lost(self) -> list[Request]:
        """The requests without a right answer."""
        return [request for request in self.requests if not request.right]

    def _ask(self, seed: int) -> None:
        chance = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        while not self._stopping.is_set():
            first = chance.randrange(len(self._images) - self._size)
            request = self._send(connection, first)
            self.requests.append(request)
            if not request.right or chance.random() < RECONNECT:
                connection.close()
            time.sleep(self._pause if request.right else PAUSE_SECONDS)
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, first: int) -> Request:
        port, began = 0, time.monotonic()
        try:
            if connection.sock is None:
                connection.connect()
            port = connection.sock.getsockname()[1]
            connection.request(
                "POST",
                "/predict/raw",
                self._images[first : first + self._size].tobytes(),
                {"Content-Type": "application/octet-stream"},
            )
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return Request(port, began, time.monotonic(), problem=repr(error))
        right = False
        if answer.status == 200:
            right = [one["digit"] for one in json.loads(content)] == self._digits[first : first + self._size]
        version = answer.headers.get("X-Model-Version", "")
        return Request(port, began, time.monotonic(), answer.status, right, version)
