"""Real servers for tests: started on a free port of this machine, ended whatever happens."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """Run a server and end it, and every process that it started, whatever happens meanwhile."""
    with log.open("ab") as output:
        process = psutil.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        family = [process, *process.children(recursive=True)] if process.is_running() else []
        if family:
            process.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for survivor in alive:
            survivor.kill()
        process.wait()


@contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """An MLflow server as in docker-compose.yml: SQLite and proxied artifacts, here in `folder`. Gives its URL."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    url = f"http://127.0.0.1:{port}"
    with running(command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, folder / "mlflow.log"):
        wait_until(lambda: answers(f"{url}/health"), "the MLflow server answering")
        yield url
