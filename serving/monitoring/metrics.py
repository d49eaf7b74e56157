"""All metrics of the service. Each worker writes its own to files; `/metrics` returns the sum over all workers.

Requests and model calls are recorded in memory and written in batches, four times a second. A request of one image
takes about 150 µs in all (docs/performance-serving.md). Of these, on one core (x86-64, prometheus_client 0.26):

- BentoML's own middleware takes 17 µs per request instead of 1.5 µs. It also creates a series for every path that a
  client requests; here all unknown paths share one.
- `Histogram.observe` for every value takes 10 µs instead of 0.6 µs for a request of one image, and 75 µs instead of
  3 µs for a call of 32 images. It adds one value per call, so `_observe_all` uses private fields of `Histogram`.
"""

import asyncio
import logging
import os
import re
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bentoml import server_context
from numpy.typing import NDArray

from serving.contract import Form, Probabilities
from serving.errors import HUNG_UP
from serving.monitoring.folder import claim_files
from serving.monitoring.predictions import Predictions

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

logger = logging.getLogger("bentoml.digits")

# Paths with a series of their own; all others share one, because clients can request any number of paths.
ENDPOINTS = (
    "/predict",
    "/predict/raw",
    "/predict/files",
    "/explain",
    "/draw",
    "/docs",
    "/model",
    "/livez",
    "/readyz",
    "/healthz",
    "/docs.json",
    "/schema.json",
    "/",
)
OTHER = "other"
# BentoML's buckets up to its request timeout, and four below them, where nearly all requests fall.
DURATION_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Other workers see values at most this old; each worker writes its own before it renders them.
WRITE_SECONDS = 0.25
WAIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

# Reasons for refusing a request, by response status.
REASONS = {
    400: "malformed",
    401: "unauthorized",
    405: "method",
    408: "slow",
    409: "other_version",
    413: "too_large",
    415: "unsupported",
    421: "foreign_host",
    422: "invalid",
    429: "rate_limited",
    431: "head_too_large",
    HUNG_UP: "hung_up",
    501: "no_feature_maps",
    503: "overloaded",
}
NO_MODEL = "no_model"
RELOADS = ("loaded", "cached", "refused", "unavailable")


class Metrics:
    """Counters, gauges and histograms of one worker; those of requests have BentoML's names and labels.

    Call `began`, `answered`, `called` and `write` on the event loop only: the first three record, and `write` adds the
    records to the metrics. All other metrics are written immediately. Each series is looked up by its labels only once.

    Create this after BentoML has set `PROMETHEUS_MULTIPROC_DIR`; without it, `render` covers this object alone.

    Attributes:
        waiting: returns the number of images waiting for the model; set by the batcher.
    """

    def __init__(self) -> None:
        _share_with_other_workers()
        # Import late: prometheus_client reads PROMETHEUS_MULTIPROC_DIR when it is imported.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
        self._requests = counter("bentoml_service_request_total", "Answered requests.", (*labels, "http_response_code"))
        self._durations = histogram(
            "bentoml_service_request_duration_seconds",
            "Seconds from a request's headers to the end of its response.",
            DURATION_SECONDS,
            (*labels, "http_response_code"),
        )
        in_progress = gauge("bentoml_service_request_in_progress", "Requests in progress.", "livesum", labels)
        self._gauges = {name: in_progress.labels(name, *self._service.values()) for name in (*ENDPOINTS, OTHER)}
        self._last_request = gauge(
            "bentoml_service_last_request_timestamp_seconds",
            "Unix time of the last request.",
            "max",
            tuple(self._service),
        ).labels(*self._service.values())
        self._series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        for name in ENDPOINTS:
            self._series_of(name, 200)  # starts at 0, so that rates include the first request

        self._predictions = Predictions(
            counter("digits_predictions_total", "Images by label of the predicted class.", ["label"]),
            counter("digits_predicted_total", "Images by predicted digit.", ["digit"]),
        )
        self._confidence = histogram(
            "digits_confidence",
            "Probability of the predicted digit.",
            (0.5, 0.8, 0.9, 0.95, 0.99, 0.999),
        )
        self._images_per_call = histogram(
            "digits_images_per_call",
            "Images per ONNX Runtime call, from all requests that share it.",
            (1, 2, 4, 8, 16, 32),
        )
        self._queue_images = gauge("digits_queue_images", "Images waiting for the model.", "livesum")
        self._queue_seconds = histogram(
            "digits_queue_seconds", "Seconds that a request waits for its first call.", WAIT_SECONDS
        )
        self._model_seconds = histogram("digits_model_seconds", "Seconds per ONNX Runtime call.", WAIT_SECONDS)
        self._model_info = gauge(
            "digits_model_info", "1 for each version in service.", "livemax", ["version", "recipe"]
        )
        self._served: Gauge | None = None
        reloads = counter("digits_reloads_total", "Model updates and failed attempts, by result.", ["result"])
        self.reloads = {result: reloads.labels(result) for result in RELOADS}
        rejected = counter("digits_rejected_total", "Refused requests by reason.", ["reason"])
        self.rejected = {reason: rejected.labels(reason) for reason in (*REASONS.values(), NO_MODEL)}

        self.waiting: Callable[[], int] = lambda: 0
        # Recorded and not yet written.
        self._in_progress = dict.fromkeys(self._gauges, 0)
        self._last_arrival = 0.0
        self._answered: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._calls: list[tuple[Sequence[float], Probabilities, float, Form]] = []
        self._timer: asyncio.TimerHandle | None = None

    def began(self, path: str) -> str:
        """Record the start of a request; returns the endpoint to pass to `answered`."""
        endpoint = path if path in self._in_progress else OTHER
        self._in_progress[endpoint] += 1
        self._last_arrival = time.time()
        self._write_soon()
        return endpoint

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Record the end of a request, `seconds` after its start."""
        self._in_progress[endpoint] -= 1
        self._answered[endpoint, status].append(seconds)
        self._write_soon()

    def called(self, waited: Sequence[float], probabilities: Probabilities, seconds: float, form: Form) -> None:
        """Record a call of the model.

        Args:
            waited: seconds in the queue, for each request whose first images are in this call.
            probabilities: float32 `[n, classes]`.
            seconds: duration of the call.
            form: of the model.
        """
        self._calls.append((waited, probabilities, seconds, form))
        self._write_soon()

    def write(self) -> None:
        """Add all records since the last write to the metrics."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._queue_images.set(self.waiting())
        self._last_request.set(self._last_arrival)
        for endpoint, count in self._in_progress.items():
            self._gauges[endpoint].set(count)
        answered, self._answered = self._answered, defaultdict(list)
        for (endpoint, status), durations in answered.items():
            requests, histogram = self._series_of(endpoint, status)
            requests.inc(len(durations))
            _observe_all(histogram, np.array(durations))
        calls, self._calls = self._calls, []
        if calls:
            waits, answers, seconds, forms = zip(*calls, strict=True)
            _observe_all(self._queue_seconds, np.fromiter(chain.from_iterable(waits), np.float64))
            _observe_all(self._images_per_call, np.array([len(probabilities) for probabilities in answers]))
            _observe_all(self._model_seconds, np.array(seconds))
            for form in dict.fromkeys(forms):  # more than one after a swap
                of_form = [answer for answer, its in zip(answers, forms, strict=True) if its is form]
                probabilities = np.concatenate(of_form)
                _observe_all(self._confidence, probabilities.max(1))
                self._predictions.count(probabilities.argmax(1), form)

    def set_model(self, version: str, recipe: str, form: Form) -> None:
        """Set the model in service in this worker; the counters of its classes start at 0."""
        self._predictions.start(form)
        if self._served is not None:
            self._served.set(0)
        self._served = self._model_info.labels(version, recipe)
        self._served.set(1)

    def loaded_before(self) -> bool:
        """Return whether any worker has had a model since the start of the service; reads files."""
        try:
            text = self.render().decode()
        except (OSError, ValueError, struct.error):  # a damaged file must not keep a worker from starting
            return False
        return re.search(r'^digits_reloads_total\{result="(loaded|cached)"\} (?!0\.0$)', text, re.MULTILINE) is not None

    def render(self) -> bytes:
        """Return the written metrics of all workers in Prometheus' text format.

        Reads files: do not call this on the event loop.
        """
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        while True:
            with suppress(FileNotFoundError):  # a starting worker took over the file of a dead one
                return generate_latest(registry)

    def _series_of(self, endpoint: str, status: int) -> "tuple[Counter, Histogram]":
        series = self._series.get((endpoint, status))
        if series is None:
            labels = {"endpoint": endpoint, "http_response_code": status, **self._service}
            series = self._series[endpoint, status] = self._requests.labels(**labels), self._durations.labels(**labels)
        return series

    def _write_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)


def _observe_all(histogram: "Histogram", values: NDArray[np.floating]) -> None:
    """Observe many values with one write per bucket that they fall into; prometheus_client has no such method."""
    if len(values):
        histogram._sum.inc(float(values.sum()))
        counts = np.bincount(np.searchsorted(histogram._upper_bounds, values))
        for bucket in counts.nonzero()[0].tolist():
            histogram._buckets[bucket].inc(int(counts[bucket]))


def _share_with_other_workers() -> None:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    try:
        claim_files(Path(folder))
    except OSError as error:
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        logger.warning("Metrics stay in the memory of each worker: %s: %s", folder, error.strerror or error)
