"""The container of the service is killed under load, and its restart policy brings it back."""

import subprocess

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.faults.load import Load

from .compose import Stack, wait_for

pytestmark = pytest.mark.stack

# `docker kill` counts as a stop by hand, which no restart policy undoes; so the first process of the image is killed,
# from inside. Process 1 is Docker's init, which ends with it.
KILL = """
import os, pathlib
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    lines = status.read_text().splitlines()
    if "PPid:\\t1" in lines and "Pid:\\t1" not in lines:
        os.kill(int(status.parent.name), 9)
"""


def test_killed_service_starts_again_and_answers(
    stack: Stack, test_digits: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images = test_digits[0][:200]
    answer = httpx.post(f"{stack.service}/predict/raw", content=images.tobytes(), timeout=60).raise_for_status()
    digits = [one["digit"] for one in answer.json()]
    restarts = stack.inspect("serve")["RestartCount"]
    with Load(stack.service, images, digits, seed=1) as load:
        load.run_for(300)
        assert load.lost == []
        # It may be killed before it ends itself, because the container ends with its first process.
        command = ["docker", "exec", stack.container("serve"), "python", "-ISc", KILL]
        subprocess.run(command, check=False, capture_output=True, timeout=60)
        wait_for(lambda: stack.inspect("serve")["RestartCount"] == restarts + 1, 60, "the container was not restarted")
        wait_for(lambda: httpx.get(f"{stack.service}/readyz").is_success, 90, "the service was not ready")
        lost = len(load.lost)
        load.run_for(300)
        load.stop()
    answered = [request for request in load.requests[-200:] if request.right]
    print(f"the container killed under load: requests: {len(load.requests)}, lost: {lost}, all until it was back")
    assert len(answered) == 200
