"""One queue for all clients: whatever waits when the model is free goes into one ONNX Runtime call."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from serving.contract import Images, Probabilities
from serving.inference.cores import usable_cores
from serving.model.onnx_file import Model
from serving.model.store import Served
from serving.monitoring.metrics import Metrics

# More images in one call are no faster for each, and ONNX Runtime keeps the memory of its largest call.
IMAGES_PER_CALL = 32
# A call that takes longer runs in a thread, so that /livez need not wait for it and bodies are decoded meanwhile.
# For a shorter one the change of threads costs more than the wait; on one core it is good for nothing but /livez.
INLINE_SECONDS = 0.002
INLINE_SECONDS_ON_ONE_CORE = 0.02


class OverloadedError(Exception):
    """The queue is full: nothing was accepted, and asking again later may help."""


class NoModelError(Exception):
    """There is no model in service yet."""


@dataclass(frozen=True)
class Answer:
    """Probabilities, float32 `[n, 10]`, and the version of the one model that made all of them."""

    probabilities: Probabilities
    version: str


@dataclass(eq=False, slots=True)
class _Request:
    images: Images
    answer: asyncio.Future[Answer]
    queued: float  # when, by time.perf_counter
    served: Served | None = None
    begun: int = 0
    parts: list[Probabilities] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.images) - self.begun


# What one call answers: requests, and of each the first of its images and one past the last.
Batch = list[tuple[_Request, int, int]]


class Batcher:
    """Collects the images of all requests and asks the model for as many at once as wait.

    A lone request never waits for company: the call is made at once where nobody else is there, and otherwise as soon
    as the event loop has handed over all the requests that had already arrived. A request of more than
    `IMAGES_PER_CALL` images is split, and its next part goes behind the others that wait, so that a large request does
    not hold up small ones. BentoML's own adaptive batching is not used, because after a burst it makes lone requests
    wait.

    Args:
        served: returns the model in service; read once per call, so a swap happens between two calls.
        queue_images: how many images may wait.
        metrics: what happens here is counted there.
        is_alone: whether the request that is being submitted is the only one under way.
    """

    def __init__(
        self,
        served: Callable[[], Served | None],
        queue_images: int,
        metrics: Metrics,
        is_alone: Callable[[], bool] = lambda: False,
    ) -> None:
        self._served = served
        self._queue_images = queue_images
        self._metrics = metrics
        self._is_alone = is_alone
        self._queue: deque[_Request] = deque()
        self._busy = False
        self._inline_seconds = INLINE_SECONDS_ON_ONE_CORE if usable_cores() == 1 else INLINE_SECONDS
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.waiting = 0
        metrics.waiting = lambda: self.waiting

    def submit(self, images: Images) -> asyncio.Future[Answer]:
        """Queue images; must be called on the event loop.

        Args:
            images: uint8 `[n, 28, 28]`, n at least 1.

        Returns:
            A future of the answer; its exceptions are `NoModelError` and whatever ONNX Runtime raises.

        Raises:
            OverloadedError: these images do not fit into the queue.
        """
        if self.waiting + len(images) > self._queue_images:
            raise OverloadedError
        loop = asyncio.get_running_loop()
        request = _Request(images, loop.create_future(), time.perf_counter())
        self._queue.append(request)
        self.waiting += len(images)
        if not self._busy:
            self._busy = True
            if self._is_alone():
                self._call()
            else:
                # After the callbacks that are ready: they bring the requests to share the call with.
                loop.call_soon(self._call)
        return request.answer

    def close(self) -> None:
        """Let the inference thread end."""
        self._thread.shutdown(wait=False)

    def _call(self) -> None:
        concerned = list(self._queue)
        try:
            current = self._served()
            if current is None:
                raise NoModelError
            served, batch = self._take(current)
            if served is None or not batch:
                self._busy = False
                return
            concerned = [request for request, _, _ in batch]
            pieces = [request.images[begin:end] for request, begin, end in batch]
            images = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            now = time.perf_counter()
            waited = [now - request.queued for request, begin, _ in batch if begin == 0]
            if len(images) * served.model.seconds_per_image > self._inline_seconds:
                running = asyncio.get_running_loop().run_in_executor(self._thread, _predict, served.model, images)
                running.add_done_callback(lambda done: self._finish(batch, served, waited, done))
                return
            self._hand_out(batch, served, waited, *_predict(served.model, images))
        except Exception as error:
            # Whatever it was: who asked must be told, and the queue must go on.
            self._fail(concerned, error)
        self._next()

    def _take(self, current: Served) -> tuple[Served | None, Batch]:
        """Take from the queue what the next call answers: the model, and (request, first image, one past the last).

        A request that was split stays with the model of its first part, also when another is current by now.
        """
        served: Served | None = None
        batch: Batch = []
        others: deque[_Request] = deque()
        split: _Request | None = None
        room = IMAGES_PER_CALL
        while self._queue and room:
            request = self._queue.popleft()
            if request.answer.done():  # the client went away
                self.waiting -= request.left
                continue
            wanted = request.served or current
            served = served or wanted
            if wanted is not served:
                others.append(request)
                continue
            request.served = served
            begin, count = request.begun, min(room, request.left)
            request.begun += count
            batch.append((request, begin, begin + count))
            room -= count
            self.waiting -= count
            split = request if request.left else split
        self._queue.extendleft(reversed(others))
        if split is not None:
            self._queue.append(split)
        return served, batch

    def _finish(
        self, batch: Batch, served: Served, waited: list[float], done: asyncio.Future[tuple[Probabilities, float]]
    ) -> None:
        try:
            self._hand_out(batch, served, waited, *done.result())
        except Exception as error:
            self._fail([request for request, _, _ in batch], error)
        self._next()

    def _next(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            asyncio.get_running_loop().call_soon(self._call)

    def _hand_out(
        self, batch: Batch, served: Served, waited: list[float], probabilities: Probabilities, seconds: float
    ) -> None:
        self._metrics.called(waited, probabilities, seconds)
        offset = 0
        for request, begin, end in batch:
            request.parts.append(probabilities[offset : offset + end - begin])
            offset += end - begin
            if request.left == 0 and not request.answer.done():
                whole = request.parts[0] if len(request.parts) == 1 else np.concatenate(request.parts)
                request.answer.set_result(Answer(whole, served.version))

    def _fail(self, requests: list[_Request], error: Exception) -> None:
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(error)
        # Counted anew, because the error may have come between taking a request and counting it out.
        self._queue = deque(request for request in self._queue if not request.answer.done())
        self.waiting = sum(request.left for request in self._queue)


def _predict(model: Model, images: Images) -> tuple[Probabilities, float]:
    """Ask the model; returns its answers and the seconds that it took."""
    began = time.perf_counter()
    probabilities = model.predict(images)
    return probabilities, time.perf_counter() - began
