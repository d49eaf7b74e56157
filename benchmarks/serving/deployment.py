"""Our service with the champion of an MLflow server: start time, memory, and errors during swaps under load."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow
import onnx

from benchmarks.harness.load import Wrk, load
from benchmarks.harness.processes import BenchmarkError, Server, free_port, is_up
from benchmarks.serving.contenders import BODIES, CONTENDERS, OURS, RunningServer, read_digits
from pipeline.data.names import DIGITS
from pipeline.tracking import registry

POLL_SECONDS = 0.2  # the service's interval between two checks for a new champion
PAUSE_SECONDS = 0.3  # between two swaps
SWAP_SECONDS = 20.0  # timeout of a swap
LOAD_SECONDS = 600  # upper bound of the load during all swaps
LOAD_CLIENTS, MEMORY_CLIENTS = 16, 64


def measure(
    model: Path, parent: Path, cores: tuple[int, int], seconds: int, *, starts: int, swaps: int
) -> dict[str, Any]:
    """Measure start, memory and swaps.

    Args:
        model: exported ONNX file.
        parent: folder for temporary files.
        cores: CPU core of the service; CPU core of MLflow and of the load.
        seconds: duration of the load for each kind of request before memory is read.
        starts: number of starts with the model in the cache.
        swaps: number of swaps of the champion.

    Returns:
        `starts`: seconds from start to ready; `memory`: peak bytes of the worker; `swaps`: the result of `swap`.
    """
    folder = parent / "deployment"
    folder.mkdir()
    with ExitStack() as stack:
        print("starting MLflow, with two versions of the model", flush=True)
        url = stack.enter_context(serve_registry(folder, cores[1]))
        versions = register(model, folder)
        settings = {
            "MLFLOW_TRACKING_URI": url,
            "SERVING_CACHE_DIR": str(folder / "cache"),
            "SERVING_POLL_SECONDS": str(POLL_SECONDS),
        }
        seconds_to_ready = []
        for number in range(starts + 1):
            began = time.monotonic()
            with serve(model, cores[0], folder / f"{number}", settings):
                if number:  # the first start fills the cache
                    seconds_to_ready.append(time.monotonic() - began)
                    print(f"start {number} of {starts}: {seconds_to_ready[-1]:.1f} s to ready", flush=True)
        with serve(model, cores[0], folder / "load", settings) as ours:
            for body in BODIES:
                load(ours.request(body), MEMORY_CLIENTS, seconds, cores[1])
            memory = peak_memory(ours)
            print(f"memory of the worker: {memory / 1e6:.0f} MB", flush=True)
            swapped = swap(ours, versions, swaps, cores[1])
    return {"starts": seconds_to_ready, "memory": memory, "swaps": swapped}


def swap(ours: RunningServer, versions: list[str], swaps: int, core: int) -> dict[str, int]:
    """Alternate the champion between two versions under load; each swap waits until the service has followed.

    Returns:
        The number of `swaps`, of answered `requests`, and of `errors` (refused or lost requests).

    Raises:
        BenchmarkError: the service does not follow within SWAP_SECONDS.
    """
    client = mlflow.MlflowClient()
    generator = Wrk(ours.request(BODIES[0]), LOAD_CLIENTS, LOAD_SECONDS, core)
    try:
        for number in range(1, swaps + 1):
            time.sleep(PAUSE_SECONDS)
            champion = versions[number % 2]
            client.set_registered_model_alias(DIGITS, registry.CHAMPION, champion)
            deadline = time.monotonic() + SWAP_SECONDS
            while served_version(ours) != champion:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"The service does not serve version {champion} after {SWAP_SECONDS:.0f} s.")
                time.sleep(0.05)
            print(f"swap {number} of {swaps}: version {champion} is served", flush=True)
    except BaseException:
        generator.stop()
        raise
    measured = generator.finish(now=True)
    return {"swaps": swaps, "requests": measured.requests, "errors": measured.errors}


def served_version(ours: RunningServer) -> str:
    """The version of the model in service."""
    return str(httpx.get(ours.url("/model"), timeout=10).raise_for_status().json()["version"])


def peak_memory(ours: RunningServer) -> int:
    """Peak resident bytes of the worker, which is the largest of the service's processes."""
    peaks = []
    for process in ours.process.family():
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peaks.append(1024 * int(line.split()[1]))
    return max(peaks)


@contextmanager
def serve(model: Path, core: int, parent: Path, settings: dict[str, str]) -> Iterator[RunningServer]:
    """Our service, after `/readyz` has succeeded."""
    ours = RunningServer(CONTENDERS[OURS], model, core, parent, settings)
    with ours.process:
        ours.process.wait_until(lambda: is_up(ours.url("/readyz")), pause=0.02)
        yield ours


@contextmanager
def serve_registry(folder: Path, core: int) -> Iterator[str]:
    """An MLflow server as in docker-compose.yml, set as the tracking server of this process; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    url = f"http://127.0.0.1:{port}"
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Server("MLflow", command, core, folder / "mlflow.log", environment) as server:
        server.wait_until(lambda: is_up(f"{url}/health"))
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(url)
        try:
            yield url
        finally:
            mlflow.set_tracking_uri(before)


def register(model: Path, folder: Path) -> list[str]:
    """Register two versions that differ only in one metadata entry; the first becomes champion."""
    versions = []
    for number in (1, 2):
        content = onnx.load(model)
        for entry in content.metadata_props:
            if entry.key == "created":
                entry.value = f"{entry.value}, {number}"
        file = folder / f"{number}.onnx"
        onnx.save(content, file)
        with mlflow.start_run():
            versions.append(str(registry.register(file, read_digits(1)).number))
    mlflow.MlflowClient().set_registered_model_alias(DIGITS, registry.CHAMPION, versions[0])
    return versions
