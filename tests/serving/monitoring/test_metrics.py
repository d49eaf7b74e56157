import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from serving.contract import MNIST
from serving.monitoring.metrics import ENDPOINTS, REASONS, WRITE_SECONDS, Metrics, _observe_all
from tests.processes import ROOT
from tests.serving.asking import RAW, value
from tests.serving.conftest import Service

Digits = tuple[np.ndarray, np.ndarray]


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """All written samples except the creation times of the series."""
    return {
        (sample.name, str(sample.labels)): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_batched_writes_equal_single_writes() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.05] * 10, 500).astype(np.float32)
    probabilities[0] = np.eye(10)[3]
    probabilities[1] = [0.5] + [0.5 / 9] * 9  # on the upper bound of a bucket, which includes it
    seconds = generator.exponential(0.01, 500)
    at_once, one_by_one = Metrics(), Metrics()

    def count(metrics: Metrics, begin: int, end: int) -> None:
        metrics.answered(metrics.began("/predict"), 200 if begin % 3 else 503, seconds[begin])
        metrics.called(seconds[begin : begin + begin % 4].tolist(), probabilities[begin:end], seconds[begin], MNIST)

    async def work() -> None:
        for begin in range(0, 500, 5):
            count(at_once, begin, begin + 5)
            count(one_by_one, begin, begin + 5)
            one_by_one.write()
        at_once.write()
        at_once.write()  # records are written only once
        at_once._last_arrival = one_by_one._last_arrival
        at_once.write()

    asyncio.run(work())
    assert samples(at_once) == pytest.approx(samples(one_by_one))
    assert at_once.registry.get_sample_value("digits_confidence_count") == 500
    assert at_once.registry.get_sample_value("digits_confidence_bucket", {"le": "+Inf"}) == 500
    assert at_once.registry.get_sample_value("digits_images_per_call_bucket", {"le": "4.0"}) == 0
    assert at_once.registry.get_sample_value("digits_images_per_call_bucket", {"le": "8.0"}) == 100
    digits = Counter(probabilities.argmax(1).tolist())
    for digit in range(10):
        for name, label in (("digits_predicted_total", "digit"), ("digits_predictions_total", "label")):
            assert at_once.registry.get_sample_value(name, {label: str(digit)}) == digits[digit]


def test_batched_observation_equals_prometheus_client() -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    batched, single = (Histogram("seconds", "", buckets=(1, 2, 4), registry=registry) for registry in registries)
    values = np.array([0.5, 1.0, 1.5, 4.0, 9.0])  # below, on and above the bounds
    _observe_all(batched, values)
    for one in values.tolist():
        single.observe(one)
    found, expected = (
        [(sample.name, sample.labels, sample.value) for family in registry.collect() for sample in family.samples]
        for registry in registries
    )
    assert found[:-1] == expected[:-1]  # the last sample is the time of creation
    assert found[-1][0] == expected[-1][0] == "seconds_created"


def test_records_are_written_within_the_interval() -> None:
    metrics = Metrics()
    in_progress = "bentoml_service_request_in_progress"
    labels = {"service_name": "", "service_version": "not available", "runner_name": "None", "endpoint": "/predict"}

    def shown(name: str, **more: str) -> float | None:
        return metrics.registry.get_sample_value(name, {**labels, **more})

    async def work() -> None:
        endpoint = metrics.began("/predict")
        await asyncio.sleep(2 * WRITE_SECONDS)
        assert shown(in_progress) == 1
        metrics.answered(endpoint, 200, 0.1)
        assert shown(in_progress) == 1
        await asyncio.sleep(2 * WRITE_SECONDS)
        assert shown(in_progress) == 0
        assert shown("bentoml_service_request_total", http_response_code="200") == 1
        assert metrics._timer is None  # no timer runs without records

    asyncio.run(work())


def test_model_info_is_1_for_the_version_in_service() -> None:
    metrics = Metrics()
    for version in ("1", "2"):
        metrics.set_model(version, "default", MNIST)
    shown = metrics.registry.get_sample_value
    assert shown("digits_model_info", {"version": "1", "recipe": "default"}) == 0
    assert shown("digits_model_info", {"version": "2", "recipe": "default"}) == 1


WORKER = """
import asyncio, os, sys
import numpy as np
from serving.contract import MNIST
from serving.monitoring.metrics import Metrics
metrics = Metrics()
metrics.waiting = lambda: 5

async def work():
    metrics.began("/predict")
    metrics.called([0.1], np.zeros((7, 10), np.float32), 0.1, MNIST)
    metrics.write()

asyncio.run(work())
metrics.set_model(sys.argv[1], "default", MNIST)
sys.stdout.write(metrics.render().decode())
sys.stdout.flush()
sys.stdin.read()
os._exit(9)
"""


def test_metrics_sum_over_workers_and_keep_counters_of_killed_ones(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def start(version: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, version]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def end(worker: subprocess.Popen[str]) -> dict[tuple[str, str], float]:
        text, _ = worker.communicate(timeout=60)
        families = text_string_to_metric_families(text)
        return {(one.name, one.labels.get("version", "")): one.value for family in families for one in family.samples}

    first = start("1")
    assert first.stdout
    os.read(first.stdout.fileno(), 1)  # its metrics are written
    together = end(start("2"))
    assert together["digits_queue_images", ""] == 10
    assert together["digits_images_per_call_sum", ""] == 14
    assert together["digits_model_info", "1"] == together["digits_model_info", "2"] == 1
    first.communicate(timeout=60)
    alone = end(start("3"))
    assert alone["digits_queue_images", ""] == 5
    assert alone["digits_images_per_call_sum", ""] == 21
    assert [version for name, version in alone if name == "digits_model_info"] == ["3"]


def test_bentoml_names_and_labels_are_kept(service: Service, test_digits: Digits) -> None:
    labels = {
        "endpoint": "/predict/raw",
        "service_name": "digits",
        "service_version": "not available",
        "runner_name": "digits",
    }
    requests = value(service, "bentoml_service_request_total", http_response_code="200", **labels)
    timed = value(service, "bentoml_service_request_duration_seconds_count", http_response_code="200", **labels)
    service.client.post("/predict/raw", content=test_digits[0][0].tobytes(), headers=RAW)
    assert value(service, "bentoml_service_request_total", http_response_code="200", **labels) == requests + 1
    assert (
        value(service, "bentoml_service_request_duration_seconds_count", http_response_code="200", **labels)
        == timed + 1
    )
    assert value(service, "bentoml_service_request_in_progress") == 0
    assert value(service, "bentoml_service_last_request_timestamp_seconds", service_name="digits") > 1e9


def test_unknown_paths_share_one_series(service: Service) -> None:
    def endpoints() -> set[str]:
        return set(re.findall(r'[{,]endpoint="([^"]*)"', service.client.get("/metrics").text))

    others = value(service, "bentoml_service_request_total", endpoint="other")
    for number in range(20):
        assert service.client.get(f"/nothing/{number}").status_code == 404
    assert value(service, "bentoml_service_request_total", endpoint="other") == others + 20
    assert endpoints() == {*ENDPOINTS, "other"}


def test_every_route_but_metrics_has_a_series(service: Service) -> None:
    documented = set(service.client.get("/docs.json").json()["paths"])
    ours = set(
        re.findall(
            r'^            "(/[a-z/.]+)": \(', (ROOT / "serving" / "web" / "routes.py").read_text(), re.MULTILINE
        )
    )
    assert len(ours) >= 5
    assert (documented | ours) - {"/metrics"} <= set(ENDPOINTS)


@pytest.mark.parametrize(
    ("method", "path", "content", "content_type", "reason"),
    [
        ("POST", "/predict", b"{", "application/json", "malformed"),
        ("GET", "/predict", b"", "application/json", "method"),
        ("POST", "/predict/raw", bytes(784 * 1025), "application/octet-stream", "too_large"),
        ("POST", "/predict", b"x", "text/plain", "unsupported"),
        ("POST", "/predict/raw", b"x", "application/octet-stream", "invalid"),
    ],
)
def test_refused_request_is_counted_by_reason(
    service: Service, method: str, path: str, content: bytes, content_type: str, reason: str
) -> None:
    before = {one: value(service, "digits_rejected_total", reason=one) for one in (*REASONS.values(), "no_model")}
    service.client.request(method, path, content=content, headers={"content-type": content_type})
    after = {one: value(service, "digits_rejected_total", reason=one) for one in before}
    assert after == {**before, reason: before[reason] + 1}


def test_requests_without_a_model_are_counted(start_service: Callable[..., Any], tmp_path: Path) -> None:
    with start_service(SERVING_MODEL=tmp_path / "none.onnx", SERVING_POLL_SECONDS=0.1) as service:
        service.client.post("/predict/raw", content=bytes(784), headers=RAW)
        assert value(service, "digits_rejected_total", reason="no_model") == 1
        assert value(service, "digits_rejected_total") == 1
        assert value(service, "digits_reloads_total", result="unavailable") >= 1
        assert value(service, "digits_reloads_total", result="loaded") == 0


def test_predictions_confidence_and_times_are_exposed(service: Service, test_digits: Digits) -> None:
    names = (
        "digits_predicted_total",
        "digits_predictions_total",
        "digits_confidence_count",
        "digits_images_per_call_sum",
    )
    times = ("digits_queue_seconds_count", "digits_model_seconds_count")
    before = {name: value(service, name) for name in (*names, *times)}
    answer = service.client.post("/predict/raw", content=test_digits[0][:5].tobytes(), headers=RAW)
    assert {name: value(service, name) - before[name] for name in names} == dict.fromkeys(names, 5)
    assert {name: value(service, name) - before[name] for name in times} == dict.fromkeys(times, 1)
    assert value(service, "digits_model_info", version=answer.headers["x-model-version"], recipe="quick") == 1
    assert value(service, "digits_reloads_total", result="loaded") == 1
    assert value(service, "digits_queue_images") == 0


def test_metrics_use_prometheus_text_format(service: Service) -> None:
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert service.client.head("/metrics").status_code == 200
    assert service.client.post("/metrics").status_code == 405
