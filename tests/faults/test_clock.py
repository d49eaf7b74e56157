"""The time of day jumps under load, by days forward and back.

The machine's own clock stays: a small library in front of the C library (clock.c) moves the time of day of the
service's processes alone. Their monotonic clock is not moved, as when an administrator sets the time.
"""

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import wait_until
from tests.serving.asking import value
from tests.serving.conftest import Swap

from .load import Load

pytestmark = pytest.mark.faults
Digits = tuple[np.ndarray, np.ndarray]
WORKERS = 2
HOUR, DAY = 3600, 86400


@pytest.fixture
def moved_clock(tmp_path: Path) -> tuple[dict[str, object], Callable[[int], None]]:
    """Settings of a service whose time of day can be moved, and what moves it by seconds."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler for the library that moves the clock")
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)

    def move(seconds: int) -> None:
        offset.with_suffix(".next").write_text(f"{seconds}")
        offset.with_suffix(".next").replace(offset)

    move(0)
    return {"LD_PRELOAD": library, "CLOCK_OFFSET": offset}, move


def test_moved_clock_costs_no_request_and_the_next_version_is_served(
    moved_clock: tuple[dict[str, object], Callable[[int], None]],
    start_service: Callable[..., Any],
    swap: Swap,
    test_digits: Digits,
    read: list[int],
    chance: random.Random,
    count: Callable[..., None],
) -> None:
    environment, move = moved_clock
    jumps = [3 * DAY, -3 * DAY, HOUR, -HOUR, 0]
    chance.shuffle(jumps)
    with start_service(
        **environment, SERVING_MODEL=swap.served, SERVING_WORKERS=WORKERS, SERVING_POLL_SECONDS=0.2
    ) as service:
        wait_until(lambda: service.log.read_text().count("Model loaded") >= WORKERS, "both workers having a model")
        with Load(service.url, test_digits[0], read, chance.randrange(2**32)) as load:
            for number, jump in enumerate(jumps, 1):
                move(jump)
                load.run_for(100)
                shown = value(service, "bentoml_service_last_request_timestamp_seconds")
                if jump == max(jumps):  # the newest of all workers' times
                    assert abs(shown - time.time() - jump) < HOUR / 2
                swap.put(number % 2)
                wanted = swap.versions[number % 2]
                wait_until(lambda version=wanted: answers_only(load, version), f"version {wanted}")  # type: ignore[misc]
            load.stop()
        count("the clock moved", len(jumps), len(load.requests), len(load.lost))
        assert load.lost == []


def answers_only(load: Load, version: str) -> bool:
    load.run_for(50)
    return {request.version for request in load.requests[-50:]} == {version}
