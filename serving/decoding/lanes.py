"""Threads that decode request bodies, with a bound on the work that waits for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.contract import Images
from serving.errors import RequestError

Result = TypeVar("Result")

# Work that may wait for a thread, in estimated seconds of one core; a single task may exceed it.
WAITING_SECONDS = 1.0
# Pictures up to this estimate are decoded apart from larger ones: 500x500 pixels as PNG, for example.
SMALL_SECONDS = 0.01
READ_SECONDS_PER_BYTE = 10e-9  # for JSON, the slowest kind of body


class Lane:
    """One thread that does one task after another; call `run` on the event loop only."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting = 0.0

    def run(self, seconds: float, task: Callable[[], Result]) -> asyncio.Future[Result]:
        """Queue a task.

        Args:
            seconds: estimate of its duration.
            task: called in the thread; its exceptions reach the future.

        Raises:
            RequestError: 503 the tasks before it take `WAITING_SECONDS` already, together with this one.
        """
        if self._waiting and self._waiting + seconds > WAITING_SECONDS:
            raise RequestError(
                503, "about a second of decoding already waits; retry in one second.", (b"retry-after", b"1")
            )
        self._waiting += seconds
        running = asyncio.get_running_loop().run_in_executor(self._thread, task)
        running.add_done_callback(lambda _: self._done(seconds))
        return running

    def _done(self, seconds: float) -> None:
        self._waiting -= seconds
        if self._waiting < 1e-9:  # rounding
            self._waiting = 0.0


class Lanes:
    """Three threads: one reads bodies, one decodes small pictures, one large ones.

    Small pictures do not wait behind large ones, and only one large picture is in memory at a time.
    """

    def __init__(self) -> None:
        self._reading = Lane("reading")
        self._small = Lane("small-pictures")
        self._large = Lane("large-pictures")

    def read(self, size: int, read: Callable[[], Result]) -> asyncio.Future[Result]:
        """Read a body of `size` bytes: JSON and raw bytes to images, forms to `Pictures`; raises as `Lane.run`."""
        return self._reading.run(READ_SECONDS_PER_BYTE * size, read)

    def decode(self, seconds: float, decode: Callable[[], Images]) -> asyncio.Future[Images]:
        """Decode the pictures of one request, estimated to take `seconds`; raises as `Lane.run`."""
        lane = self._small if seconds <= SMALL_SECONDS else self._large
        return lane.run(seconds, decode)
