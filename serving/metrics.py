"""All metrics of the service. Each worker writes its own to files; `/metrics` shows the sum over all workers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from bentoml import server_context
from numpy.typing import NDArray

from serving.model import Probabilities

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
WAIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

# Why a request is refused, by the status of its answer.
REASONS = {
    400: "malformed",
    405: "method",
    408: "slow",
    413: "too_large",
    415: "unsupported",
    422: "invalid",
    501: "no_feature_maps",
    503: "overloaded",
}
NO_MODEL = "no_model"
RELOADS = ("loaded", "cached", "refused", "unavailable")


class Metrics:
    """What the service counts, each series looked up once: a request costs some additions, and no look at labels.

    Requests are counted here and not by BentoML, under BentoML's names and labels: its own middleware makes new series
    for every path that anybody asks for, and takes twice the time.

    Must be made after BentoML has set `PROMETHEUS_MULTIPROC_DIR`; where that is not set, the metrics are those of this
    object alone.
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
        self._in_progress = {name: in_progress.labels(name, *self._service.values()) for name in (*ENDPOINTS, OTHER)}
        self._last_request = gauge(
            "bentoml_service_last_request_timestamp_seconds", "When the last request came.", "max", tuple(self._service)
        ).labels(*self._service.values())
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        for name in ENDPOINTS:
            self._series(name, 200)  # from 0 on, so that a rate sees the first one

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
            (1, 2, 4, 8, 16, 32, 64),
        )
        self.queue_images = gauge("digits_queue_images", "Images that wait for the model.", "livesum")
        self._queue_seconds = histogram(
            "digits_queue_seconds", "Seconds that a request waited for its first call.", WAIT_SECONDS
        )
        self.model_seconds = histogram("digits_model_seconds", "Seconds that one call took.", WAIT_SECONDS)
        self._model_info = gauge(
            "digits_model_info", "1 for each version that a worker serves now.", "livemax", ["version", "recipe"]
        )
        self._served: Gauge | None = None
        reloads = counter("digits_reloads_total", "Looks for a model that changed something or failed.", ["result"])
        self.reloads = {result: reloads.labels(result) for result in RELOADS}
        rejected = counter("digits_rejected_total", "Requests that were refused, by why.", ["reason"])
        self.rejected = {reason: rejected.labels(reason) for reason in (*REASONS.values(), NO_MODEL)}

    def began(self, path: str) -> str:
        """Count a request that came; returns the endpoint as which `answered` counts it."""
        endpoint = path if path in self._in_progress else OTHER
        self._in_progress[endpoint].inc()
        self._last_request.set(time.time())
        return endpoint

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that ended, `seconds` after it began."""
        self._in_progress[endpoint].dec()
        requests, durations = self._answered.get((endpoint, status)) or self._series(endpoint, status)
        requests.inc()
        durations.observe(seconds)

    def called(self, images: int, waited: Sequence[float]) -> None:
        """Count one call of the model: how many images it takes, and the seconds that each new request in it waited."""
        self._images_per_call.observe(images)
        if len(waited) == 1:
            self._queue_seconds.observe(waited[0])
        else:
            _observe_all(self._queue_seconds, np.array(waited))

    def predicted(self, probabilities: Probabilities) -> None:
        """Count the answers of one call, float32 `[n, 10]`."""
        digits = probabilities.argmax(1)
        if len(digits) == 1:  # most calls of a service that is not busy
            digit = int(digits[0])
            self._predicted[digit].inc()
            self._confidence.observe(float(probabilities[0, digit]))
            return
        counts = np.bincount(digits, minlength=10)
        for digit in counts.nonzero()[0].tolist():
            self._predicted[digit].inc(int(counts[digit]))
        _observe_all(self._confidence, probabilities.max(1))

    def serves(self, version: str, recipe: str) -> None:
        """Name the model that this worker serves from now on."""
        if self._served is not None:
            self._served.set(0)
        self._served = self._model_info.labels(version, recipe)
        self._served.set(1)

    def render(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format; reads files, so not on the event loop."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _series(self, endpoint: str, status: int) -> tuple[Counter, Histogram]:
        labels = {"endpoint": endpoint, "http_response_code": status, **self._service}
        series = self._requests.labels(**labels), self._durations.labels(**labels)
        self._answered[endpoint, status] = series
        return series


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
                mark_process_dead(process)  # type: ignore[no-untyped-call]
