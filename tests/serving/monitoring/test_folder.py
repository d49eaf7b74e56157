"""The folder of the metrics belongs to one start, outlives a full disk, and does not grow with restarts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from serving.monitoring.folder import PREFIX, SIZES
from serving.monitoring.metrics import ENDPOINTS, OTHER
from tests.disks import fill, small_disk
from tests.processes import ROOT, wait_until
from tests.serving.asking import RAW, ask, value
from tests.serving.conftest import Service

Digits = tuple[np.ndarray, np.ndarray]
REQUESTS = "bentoml_service_request_total"


def folders(temporary: Path) -> set[str]:
    return {path.name for path in temporary.glob(f"{PREFIX}*")}


def is_answered(service: Service) -> bool:
    try:
        return service.client.post("/predict/raw", content=bytes(784), headers=RAW).status_code == 200
    except httpx.TransportError:
        return False


def test_second_start_leaves_the_metrics_of_the_first(service: Service, test_digits: Digits) -> None:
    ask(service, "/predict/raw", test_digits[0][:1])
    before = value(service, REQUESTS, endpoint="/predict/raw")
    port = service.url.rpartition(":")[2]
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Digits"]
    command += ["--host", "127.0.0.1", "--port", port]
    second = subprocess.run(
        command, cwd=ROOT, env=service.process.environ(), capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode != 0
    assert "ddress already in use" in second.stdout + second.stderr
    assert value(service, REQUESTS, endpoint="/predict/raw") == before >= 1
    ask(service, "/predict/raw", test_digits[0][:1])
    assert value(service, REQUESTS, endpoint="/predict/raw") == before + 1


START = """
import os, sys
from serving.monitoring.folder import make_folder
print(make_folder().name, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_folder_ends_with_its_service_and_that_of_a_killed_one_with_the_next_start(tmp_path: Path) -> None:
    def start() -> tuple[subprocess.Popen[str], str]:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-c", START], cwd=ROOT, env=environment, stdin=-1, stdout=-1, text=True
        )
        assert process.stdout
        return process, process.stdout.readline().strip()

    (living, of_living), (killed, of_killed) = start(), start()
    killed.kill()
    killed.communicate()
    assert folders(tmp_path) == {of_living, of_killed}
    third, of_third = start()
    assert folders(tmp_path) == {of_living, of_third}
    for process in (living, third):
        process.communicate(timeout=60)
    assert folders(tmp_path) == set()


WORKER = """
import asyncio, os, sys
from serving.monitoring.metrics import ENDPOINTS, OTHER, Metrics
metrics = Metrics()

async def work():
    for endpoint in (*ENDPOINTS, OTHER):
        metrics.began(endpoint)
        for status in eval(sys.argv[1]):
            metrics.answered(endpoint, status, 0.1)
    metrics.write()

asyncio.run(work())
sys.stdout.write(metrics.render().decode())
sys.stdout.flush()
os._exit(9)
"""


@pytest.mark.slow
def test_files_never_grow_and_pass_from_dead_workers_to_new_ones(tmp_path: Path) -> None:
    statuses = [200, 204, 206, 304, 400, 401, 403, 404, 405, 408, 413, 415, 416, 421, 422, 429, 431, 499, 500, 501, 503]
    for restarts in range(3):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(statuses)],
            cwd=ROOT,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 9, done.stderr
        files = {file.stem.rpartition("_")[0]: file.stat().st_size for file in tmp_path.glob("*.db")}
        assert files == SIZES
        assert len(list(tmp_path.glob("*.db"))) == len(SIZES)
        answered = [line for line in done.stdout.splitlines() if line.startswith(f"{REQUESTS}{{")]
        assert sum(float(line.rpartition(" ")[2]) for line in answered) == (restarts + 1) * len(statuses) * (
            len(ENDPOINTS) + 1
        )
        living = [line for line in done.stdout.splitlines() if line.startswith("bentoml_service_request_in_progress{")]
        assert {float(line.rpartition(" ")[2]) for line in living} == {float(1 - len(statuses))}
    assert OTHER in done.stdout


def test_service_on_a_full_disk_answers_and_keeps_its_metrics_in_memory(
    start_service: Callable[..., Any], model_file: Path, test_digits: Digits, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "disk", 2**16) as disk,
        start_service(SERVING_MODEL=model_file, TMPDIR=disk, BENTOML_HOME=disk / "bentoml") as service,
    ):
        service.wait_for(200)
        workers = service.workers
        for route in ("/predict", "/predict/raw"):
            assert ask(service, route, test_digits[0][:3]).status_code == 200
        assert value(service, REQUESTS, endpoint="/predict/raw") == 1
        assert service.workers == workers
        told = [line for line in service.log.read_text().splitlines() if "Metrics stay in the memory" in line]
        assert len(told) == 1
        assert "No space left on device" in told[0]


def test_disk_that_fills_up_costs_no_request_and_no_count(
    start_service: Callable[..., Any], model_file: Path, test_digits: Digits, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "disk", 2**23) as disk,
        start_service(SERVING_MODEL=model_file, TMPDIR=disk, BENTOML_HOME=disk / "bentoml") as service,
    ):
        service.wait_for(200)
        fill(disk)
        for path in ("/nothing", *ENDPOINTS):  # a series for each
            assert service.client.request("DELETE", path).status_code in (404, 405)
        assert ask(service, "/predict/raw", test_digits[0][:1]).status_code == 200
        before = value(service, REQUESTS)
        (killed,) = service.workers
        killed.kill()
        psutil.wait_procs([killed], timeout=20)
        wait_until(lambda: is_answered(service), "an answer by the new worker")
        assert value(service, REQUESTS) > before
        assert "in the memory" not in service.log.read_text()
