"""One project of `docker compose`, driven from the command line."""

import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 1200  # without any cached layer, and with the CUDA build of torch
TRAIN_SECONDS = 900
COMMAND_SECONDS = 120
OURS = ("PIPELINE_", "SERVING_", "MLFLOW_", "COMPOSE_")


class Stack:
    """One Compose project with its own name, ports and settings; the caller's settings do not reach it."""

    def __init__(self, **settings: str) -> None:
        """Choose a new project name and free ports; `settings` are environment variables of `docker compose`."""
        self.project = f"digits-test-{uuid.uuid4().hex[:8]}"
        self.serve_port, self.mlflow_port = _free_ports(2)
        self.service = f"http://127.0.0.1:{self.serve_port}"
        self.tracking = f"http://127.0.0.1:{self.mlflow_port}"
        own = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        own.pop("MNIST_DIR", None)
        ports = {"SERVE_PORT": str(self.serve_port), "MLFLOW_PORT": str(self.mlflow_port)}
        self.environment = own | ports | settings

    def compose(
        self, *arguments: str, timeout: float = COMMAND_SECONDS, check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` in this project; a failure shows the end of its output and of the training log."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, *arguments],
            check=False,
            cwd=ROOT,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            output = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{self.log('train')[-3000:]}"
            pytest.fail(f"docker compose {' '.join(arguments)} ended with {done.returncode}:\n{output}")
        return done

    def log(self, service: str) -> str:
        """Return the log of the container of `service`."""
        command = ["docker", "logs", self.container(service)]
        return subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
        ).stdout

    def container(self, service: str) -> str:
        """Return the id of the container of `service`, running or not."""
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return the output of `docker inspect` for the container of `service`."""
        inspected: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return inspected

    def up(self, timeout: float = TRAIN_SECONDS) -> None:
        """`docker compose up`: train unless there is a champion, then wait for the service to be ready."""
        self.compose("up", "--detach", timeout=timeout)
        wait_for(lambda: httpx.get(f"{self.service}/readyz").is_success, 90, "the service was not ready")

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs of all experiments on the MLflow server."""
        api = f"{self.tracking}/api/2.0/mlflow"
        experiments = httpx.post(f"{api}/experiments/search", json={"max_results": 100}).raise_for_status().json()
        names = [experiment["experiment_id"] for experiment in experiments.get("experiments", [])]
        runs = httpx.post(f"{api}/runs/search", json={"experiment_ids": names, "max_results": 100})
        found: list[dict[str, Any]] = runs.raise_for_status().json().get("runs", [])
        return found

    def served_run(self) -> str:
        """Return the id of the run whose model is in service."""
        run_id: str = httpx.get(f"{self.service}/model").raise_for_status().json()["run_id"]
        return run_id

    def artifact(self, path: str) -> bytes:
        """Return an artifact of the run whose model is in service."""
        query = {"run_id": self.served_run(), "path": path}
        return httpx.get(f"{self.tracking}/get-artifact", params=query, timeout=60).raise_for_status().content

    def remove(self) -> None:
        """Take down containers, networks, volumes and images of this project; BuildKit keeps its layers."""
        self.compose("down", "--volumes", "--rmi", "local", "--timeout", "5", "--remove-orphans", check=False)


def docker(*arguments: str) -> str:
    """Run `docker` and return what it printed."""
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS
    ).stdout


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll `condition`; a refused connection counts as false."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"timeout after {seconds:.0f} s: {what}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
