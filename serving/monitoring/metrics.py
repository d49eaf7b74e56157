"""All metrics of the service. Each worker writes its own to files; `/metrics` shows the sum over all workers.

What every request and every call of the model counts is only noted at first and written a few times a second: writing
it at once would cost a lone request more than its way through the queue (docs/performance-serving.md).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from bentoml import server_context
from numpy.typing import NDArray

from serving.contract import Probabilities
from serving.errors import HUNG_UP

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

# The paths that have a series of their own; all others, which clients can invent without end, share one.
ENDPOINTS = (
    "/predict",
    "/predict/raw",
    "/predict/files",
    "/explain",
    "/draw",
    "/model",
    "/livez",
    "/readyz",
    "/healthz",
    "/docs.json",
    "/schema.json",
    "/",
)
OTHER = "other"
# BentoML's buckets up to the time after which it gives a request up, and four more below, where nearly all answers are.
DURATION_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# What other workers show of this one is at most so old. Its own numbers are written before they are shown.
WRITE_SECONDS = 0.25
WAIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

# Why a request is refused, by the status of its answer.
REASONS = {
    400: "malformed",
    405: "method",
    408: "slow",
    413: "too_large",
    415: "unsupported",
    422: "invalid",
    HUNG_UP: "hung_up",
    501: "no_feature_maps",
    503: "overloaded",
}
NO_MODEL = "no_model"
RELOADS = ("loaded", "cached", "refused", "unavailable")


class Metrics:
    """What the service counts.

    `began`, `answered` and `called` note, and must be called on the event loop; `write` adds up what they noted.
    Everything else is written at once. Each series is looked up once, not by its labels each time.

    Requests are counted here and not by BentoML, under BentoML's names and labels: its own middleware makes new series
    for every path that anybody asks for, and takes twice the time.

    Must be made after BentoML has set `PROMETHEUS_MULTIPROC_DIR`; where that is not set, the metrics are those of this
    object alone.

    Attributes:
        waiting: says how many images wait for the model; set by whoever keeps the queue.
    """

    def __init__(self) -> None:
        # Imported here because prometheus_client decides at its import where the numbers are kept.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        _forget_ended_workers()
        self.registry = CollectorRegistry()

        def counter(name: str, about: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(name, about, labels, registry=self.registry)

        def gauge(name: str, about: str, mode: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(name, about, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        def histogram(name: str, about: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
            return Histogram(name, about, labels, registry=self.registry, buckets=buckets)

        self._service = {
            "service_name": server_context.bento_name,
            "service_version": server_context.bento_version,
            "runner_name": server_context.service_name,
        }
        labels = ("endpoint", *self._service)
        self._requests = counter(
            "bentoml_service_request_total", "Requests that were answered.", (*labels, "http_response_code")
        )
        self._durations = histogram(
            "bentoml_service_request_duration_seconds",
            "Seconds from a request's head to the end of its answer.",
            DURATION_SECONDS,
            (*labels, "http_response_code"),
        )
        in_progress = gauge(
            "bentoml_service_request_in_progress", "Requests that are being answered.", "livesum", labels
        )
        self._gauges = {name: in_progress.labels(name, *self._service.values()) for name in (*ENDPOINTS, OTHER)}
        self._last_request = gauge(
            "bentoml_service_last_request_timestamp_seconds", "When the last request came.", "max", tuple(self._service)
        ).labels(*self._service.values())
        self._series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        for name in ENDPOINTS:
            self._series_of(name, 200)  # from 0 on, so that a rate sees the first one

        predicted = counter("digits_predicted_total", "Images by the digit that they were read as.", ["digit"])
        self._predicted = [predicted.labels(str(digit)) for digit in range(10)]
        self._confidence = histogram(
            "digits_confidence",
            "Probability of the digit that an image was read as.",
            (0.5, 0.8, 0.9, 0.95, 0.99, 0.999),
        )
        self._images_per_call = histogram(
            "digits_images_per_call",
            "Images in one call of ONNX Runtime, from all requests that shared it.",
            (1, 2, 4, 8, 16, 32),
        )
        self._queue_images = gauge("digits_queue_images", "Images that wait for the model.", "livesum")
        self._queue_seconds = histogram(
            "digits_queue_seconds", "Seconds that a request waited for its first call.", WAIT_SECONDS
        )
        self._model_seconds = histogram("digits_model_seconds", "Seconds that one call took.", WAIT_SECONDS)
        self._model_info = gauge(
            "digits_model_info", "1 for each version that a worker serves now.", "livemax", ["version", "recipe"]
        )
        self._served: Gauge | None = None
        reloads = counter("digits_reloads_total", "Looks for a model that changed something or failed.", ["result"])
        self.reloads = {result: reloads.labels(result) for result in RELOADS}
        rejected = counter("digits_rejected_total", "Requests that were refused, by why.", ["reason"])
        self.rejected = {reason: rejected.labels(reason) for reason in (*REASONS.values(), NO_MODEL)}

        self.waiting: Callable[[], int] = lambda: 0
        # What is noted and not yet written.
        self._in_progress = dict.fromkeys(self._gauges, 0)
        self._last_came = 0.0
        self._answered: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._calls: list[tuple[Sequence[float], Probabilities, float]] = []
        self._timer: asyncio.TimerHandle | None = None

    def began(self, path: str) -> str:
        """Note a request that came; returns the endpoint as which `answered` counts it."""
        endpoint = path if path in self._in_progress else OTHER
        self._in_progress[endpoint] += 1
        self._last_came = time.time()
        self._write_soon()
        return endpoint

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Note a request that ended, `seconds` after it began."""
        self._in_progress[endpoint] -= 1
        self._answered[endpoint, status].append(seconds)
        self._write_soon()

    def called(self, waited: Sequence[float], probabilities: Probabilities, seconds: float) -> None:
        """Note a call of the model.

        Args:
            waited: the seconds that each request waited of which this call took the first images.
            probabilities: the answers, float32 `[n, 10]`.
            seconds: how long it took.
        """
        self._calls.append((waited, probabilities, seconds))
        self._write_soon()

    def write(self) -> None:
        """Add what was noted since the last time to the metrics; on the event loop, like the notes."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._queue_images.set(self.waiting())
        self._last_request.set(self._last_came)
        for endpoint, count in self._in_progress.items():
            self._gauges[endpoint].set(count)
        answered, self._answered = self._answered, defaultdict(list)
        for (endpoint, status), durations in answered.items():
            requests, histogram = self._series_of(endpoint, status)
            requests.inc(len(durations))
            _observe_all(histogram, np.array(durations))
        calls, self._calls = self._calls, []
        if calls:
            waits, answers, seconds = zip(*calls, strict=True)
            _observe_all(self._queue_seconds, np.fromiter(chain.from_iterable(waits), np.float64))
            _observe_all(self._images_per_call, np.array([len(probabilities) for probabilities in answers]))
            _observe_all(self._model_seconds, np.array(seconds))
            probabilities = np.concatenate(answers)
            _observe_all(self._confidence, probabilities.max(1))
            for counter, count in zip(self._predicted, np.bincount(probabilities.argmax(1), minlength=10), strict=True):
                counter.inc(int(count))

    def serves(self, version: str, recipe: str) -> None:
        """Name the model that this worker serves from now on."""
        if self._served is not None:
            self._served.set(0)
        self._served = self._model_info.labels(version, recipe)
        self._served.set(1)

    def render(self) -> bytes:
        """Return the metrics of all workers, as they are written, in Prometheus' text format.

        Reads files, so not on the event loop.
        """
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _series_of(self, endpoint: str, status: int) -> tuple[Counter, Histogram]:
        series = self._series.get((endpoint, status))
        if series is None:
            labels = {"endpoint": endpoint, "http_response_code": status, **self._service}
            series = self._series[endpoint, status] = self._requests.labels(**labels), self._durations.labels(**labels)
        return series

    def _write_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)


def _observe_all(histogram: Histogram, values: NDArray[np.floating]) -> None:
    """Add many values at the price of the buckets that they fall into: prometheus_client has no such method."""
    if len(values):
        histogram._sum.inc(float(values.sum()))
        counts = np.bincount(np.searchsorted(histogram._upper_bounds, values))
        for bucket in counts.nonzero()[0].tolist():
            histogram._buckets[bucket].inc(int(counts[bucket]))


def _forget_ended_workers() -> None:
    """Take out what workers that were killed had waiting and in progress; what they counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for file in Path(folder).glob("gauge_live*_*.db"):
            process = int(file.stem.rpartition("_")[2])
            if not psutil.pid_exists(process):
                with suppress(FileNotFoundError):  # another worker that starts was faster
                    mark_process_dead(process)  # type: ignore[no-untyped-call]
