"""Our service as it is deployed, with the champion of an MLflow server: start, memory, and swaps under load."""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import onnx

from benchmarks.harness.load import Wrk, load
from benchmarks.harness.processes import BenchmarkError, Server, free_port
from benchmarks.serving.entrants import BODIES, ENTRANTS, OURS, Running, read_digits, start
from pipeline.tracking import registry

POLL_SECONDS = 0.2  # the service looks that often for another champion
PAUSE_SECONDS = 0.3  # under load between two swaps
SWAP_SECONDS = 20.0  # within which the service must have followed
LONGEST_LOAD = 600  # seconds, by far
LOAD_CLIENTS, MEMORY_CLIENTS = 16, 64


def measure(
    model: Path, folder: Path, cores: tuple[int, int], seconds: int, *, starts: int, swaps: int
) -> dict[str, Any]:
    """Measure all three.

    Args:
        model: the exported ONNX file.
        folder: to write to.
        cores: of the service; of MLflow and of the load.
        seconds: of load for each kind of request, before memory is read.
        starts: how often the service is started with the model in its cache.
        swaps: how often the champion is swapped.

    Returns:
        `starts`: seconds from start to ready; `memory`: bytes at most, of the worker; `swaps`: see `swap`.
    """
    folder = folder / "deployment"
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
                if number:  # the first one filled the cache
                    seconds_to_ready.append(time.monotonic() - began)
                    print(f"start {number} of {starts}: {seconds_to_ready[-1]:.1f} s to ready", flush=True)
        with serve(model, cores[0], folder / "load", settings) as ours:
            for body in BODIES:
                path = ours.url(ours.entrant.path(body))
                load(path, ours.body(body), body.content_type, MEMORY_CLIENTS, seconds, cores[1])
            memory = peak_memory(ours)
            print(f"memory of the worker: {memory / 1e6:.0f} MB", flush=True)
            swapped = swap(ours, versions, swaps, cores[1])
    return {"starts": seconds_to_ready, "memory": memory, "swaps": swapped}


def swap(ours: Running, versions: list[str], swaps: int, core: int) -> dict[str, int]:
    """Make the other version champion under load, again and again, each time the service has followed.

    Returns:
        how many `swaps`, `requests` that were answered meanwhile, and `errors` among them or lost.

    Raises:
        BenchmarkError: the service does not follow.
    """
    client = mlflow.MlflowClient()
    body = BODIES[0]
    generator = Wrk(
        ours.url(ours.entrant.path(body)), ours.body(body), body.content_type, LOAD_CLIENTS, LONGEST_LOAD, core
    )
    try:
        for number in range(1, swaps + 1):
            time.sleep(PAUSE_SECONDS)
            wanted = versions[number % 2]
            client.set_registered_model_alias(registry.MODEL, registry.CHAMPION, wanted)
            deadline = time.monotonic() + SWAP_SECONDS
            while served_version(ours) != wanted:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"The service does not serve version {wanted} after {SWAP_SECONDS:.0f} s.")
                time.sleep(0.05)
            print(f"swap {number} of {swaps}: version {wanted} is served", flush=True)
    except BaseException:
        generator.stop()
        raise
    measured = generator.finish(now=True)
    return {"swaps": swaps, "requests": measured.requests, "errors": measured.errors}


def served_version(ours: Running) -> str:
    """Which version answers."""
    with urllib.request.urlopen(ours.url("/model"), timeout=10) as answer:  # noqa: S310
        return str(json.load(answer)["version"])


def peak_memory(ours: Running) -> int:
    """Bytes that the worker had in memory at most: it is the largest of the service's processes."""
    peaks = []
    for process in ours.server.family():
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peaks.append(1024 * int(line.split()[1]))
    return max(peaks)


@contextmanager
def serve(model: Path, core: int, folder: Path, settings: dict[str, str]) -> Iterator[Running]:
    """Our service, ready."""
    (entrant,) = (entrant for entrant in ENTRANTS if entrant.name == OURS)
    running = start(entrant, model, core, folder, settings)
    with running.server:
        running.server.wait_until(lambda: running.answers("/readyz"), pause=0.02)
        yield running


@contextmanager
def serve_registry(folder: Path, core: int) -> Iterator[str]:
    """An MLflow server as in docker-compose.yml, and MLflow here set to it; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310
                return True
        except OSError:
            return False

    with Server(
        "MLflow", command, core, folder / "mlflow.log", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    ) as server:
        server.wait_until(healthy)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(url)
        try:
            yield url
        finally:
            mlflow.set_tracking_uri(before)


def register(model: Path, folder: Path) -> list[str]:
    """Register two versions that differ in nothing but a word of their metadata; the first is champion."""
    versions = []
    for number in (1, 2):
        content = onnx.load(model)
        for entry in content.metadata_props:
            if entry.key == "created":
                entry.value = f"{entry.value}, {number}"
        file = folder / f"{number}.onnx"
        onnx.save(content, file)
        with mlflow.start_run():
            versions.append(str(registry.number(registry.register(file, read_digits(1)))))
    mlflow.MlflowClient().set_registered_model_alias(registry.MODEL, registry.CHAMPION, versions[0])
    return versions
