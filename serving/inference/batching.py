"""One queue for all clients: all requests waiting when the model is free share one ONNX Runtime call."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from serving.contract import Form, Images, Probabilities
from serving.inference.cores import usable_cores
from serving.model.onnx_file import Model
from serving.model.store import Served
from serving.monitoring.metrics import Metrics

# Larger calls are no faster per image, and ONNX Runtime keeps the memory of its largest call.
IMAGES_PER_CALL = 32
# Longer calls run in a thread, so that the event loop can decode bodies and answer /livez meanwhile.
# For shorter calls, switching threads costs more than it saves; on one core a thread only helps /livez.
INLINE_SECONDS = 0.002
INLINE_SECONDS_ON_ONE_CORE = 0.02


class OverloadedError(Exception):
    """The queue is full and the request was not accepted; the client may retry later."""


class NoModelError(Exception):
    """No model is in service yet."""


class ShapeError(Exception):
    """The images were decoded for an earlier model, and the model in service now takes another shape.

    Args:
        found: shape of one image.
        form: what the model takes.
    """

    def __init__(self, found: tuple[int, ...], form: Form) -> None:
        super().__init__(f"images of shape {list(found)}, expected {list(form.shape)}")
        self.found = found
        self.form = form


@dataclass(frozen=True)
class Answer:
    """Probabilities, float32 `[n, classes]`, and the version and the form of the model that computed all of them."""

    probabilities: Probabilities
    version: str
    form: Form


@dataclass(eq=False, slots=True)
class _Request:
    images: Images
    answer: asyncio.Future[Answer]
    queued: float  # time.perf_counter() at arrival
    served: Served | None = None
    begun: int = 0
    parts: list[Probabilities] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.images) - self.begun


# The images of one call: for each request, the first image and one past the last.
Batch = list[tuple[_Request, int, int]]


class Batcher:
    """Runs the model on the images of all waiting requests together.

    A single request never waits for others to join: without concurrent requests the call runs immediately, otherwise
    after the event loop has delivered the requests that already arrived. A request of more than `IMAGES_PER_CALL`
    images is split and its next part is queued last, so that large requests do not delay small ones. BentoML's
    adaptive batching is not used because it delays single requests after a burst.

    Args:
        served: returns the model in service; read once per call, so that swaps happen between calls.
        queue_images: maximum number of waiting images.
        metrics: records calls, waiting times and predictions.
        is_alone: returns whether the submitted request is the only one in progress.
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
        """Queue images; call this on the event loop only.

        Args:
            images: uint8 `[n, *shape]`, n at least 1.

        Returns:
            A future of the answer; it raises `NoModelError`, `ShapeError` and the exceptions of ONNX Runtime.

        Raises:
            OverloadedError: the queue has no room for these images.
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
                # Callbacks that are ready now run first and may submit requests that share the call.
                loop.call_soon(self._call)
        return request.answer

    def close(self) -> None:
        """Shut down the inference thread without waiting for it."""
        self._thread.shutdown(wait=False)

    def _call(self) -> None:
        callers = list(self._queue)
        try:
            current = self._served()
            if current is None:
                raise NoModelError
            served, batch = self._take(current)
            if served is None or not batch:
                self._busy = False
                return
            callers = [request for request, _, _ in batch]
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
            # Report any failure to its callers and keep the queue running.
            self._fail(callers, error)
        self._next()

    def _take(self, current: Served) -> tuple[Served | None, Batch]:
        """Take the model and the images of the next call from the queue; refuse images that do not fit the model.

        The later parts of a split request use the model of its first part, even after a swap.
        """
        served: Served | None = None
        batch: Batch = []
        others: deque[_Request] = deque()
        split: _Request | None = None
        room = IMAGES_PER_CALL
        while self._queue and room:
            request = self._queue.popleft()
            if request.answer.done():  # the client disconnected
                self.waiting -= request.left
                continue
            wanted = request.served or current
            if served is not None and wanted is not served:
                others.append(request)
                continue
            if request.served is None and (shape := request.images.shape[1:]) != wanted.model.form.shape:
                self.waiting -= request.left
                request.answer.set_exception(ShapeError(shape, wanted.model.form))
                continue
            served = request.served = wanted
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
        self._metrics.called(waited, probabilities, seconds, served.model.form)
        offset = 0
        for request, begin, end in batch:
            request.parts.append(probabilities[offset : offset + end - begin])
            offset += end - begin
            if request.left == 0 and not request.answer.done():
                whole = request.parts[0] if len(request.parts) == 1 else np.concatenate(request.parts)
                request.answer.set_result(Answer(whole, served.version, served.model.form))

    def _fail(self, requests: list[_Request], error: Exception) -> None:
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(error)
        # Recount: the error may have occurred after a request left the queue and before it was subtracted.
        self._queue = deque(request for request in self._queue if not request.answer.done())
        self.waiting = sum(request.left for request in self._queue)


def _predict(model: Model, images: Images) -> tuple[Probabilities, float]:
    """Return the probabilities and the seconds that the call took."""
    began = time.perf_counter()
    probabilities = model.predict(images)
    return probabilities, time.perf_counter() - began
