"""No worker outlives `bentoml serve`."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.parent import VARIABLE
from tests.processes import ROOT

WORKER = """
import sys, time
sys.platform = sys.argv[1]
from serving.parent import end_with_parent
end_with_parent()
print("runs", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
from serving.parent import announce_parent
announce_parent()
worker = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_worker_ends_with_its_parent(platform: str) -> None:
    if platform == "linux" and sys.platform != "linux":
        pytest.skip("this system has no parent-death signal")
    command = [sys.executable, "-c", PARENT, platform, WORKER]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs([worker], timeout=30)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.slow
def test_worker_whose_parent_has_already_ended_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    command = [sys.executable, "-c", WORKER, "linux"]
    worker = subprocess.run(
        command, cwd=ROOT, env={**os.environ, VARIABLE: str(ended.pid)}, timeout=60, check=False, capture_output=True
    )
    assert worker.returncode == -signal.SIGTERM
    assert worker.stdout == b""


def test_killed_service_frees_its_port(start_service: Callable[..., Any], model_file: Path) -> None:
    with start_service(SERVING_MODEL=model_file, SERVING_WORKERS=2) as service:
        service.wait_for(200)
        workers = service.workers
        assert len(workers) == 2
        service.process.kill()
        service.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=30)
        for process in alive:
            process.kill()
        assert not alive
        socket.create_server(("127.0.0.1", int(service.url.rpartition(":")[2]))).close()
