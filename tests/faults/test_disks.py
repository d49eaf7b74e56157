"""The service's disk is full, becomes read-only, and damages the cached model."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.disks import fill, small_disk
from tests.processes import wait_until
from tests.serving.asking import ask
from tests.serving.conftest import Service
from tests.serving.registry import Registry

from .load import IMAGES, Load

pytestmark = pytest.mark.faults
Digits = tuple[np.ndarray, np.ndarray]
Count = Callable[..., None]
Start = Callable[..., Any]
WORKERS = 2
QUESTIONS = 50
DAMAGES = 3  # of five; the seed of another day takes others


def serves(service: Service, version: str) -> bool:
    return bool(service.client.get("/model").json().get("version") == version)


def make_full(disk: Path) -> Callable[[], None]:
    return fill(disk).unlink


def make_read_only(disk: Path) -> Callable[[], None]:
    def mount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

    mount("ro")
    return lambda: mount("rw")


# A disk with open files, as those of the metrics, cannot be made read-only.
@pytest.mark.parametrize(
    ("name", "spoil", "holds"), [("full", make_full, "everything"), ("read-only", make_read_only, "cache")]
)
def test_spoilt_disk_costs_no_request_and_the_next_version_is_served_afterwards(
    name: str,
    spoil: Callable[[Path], Callable[[], None]],
    holds: str,
    start_service: Start,
    registry: Registry,
    model_file: Path,
    newer: Path,
    test_digits: Digits,
    read: list[int],
    chance: random.Random,
    count: Count,
    tmp_path: Path,
) -> None:
    registry.register(model_file)
    with (
        small_disk(tmp_path / "disk", 2**24) as disk,
        start_service(
            MLFLOW_TRACKING_URI=registry.uri,
            SERVING_WORKERS=WORKERS,
            SERVING_POLL_SECONDS=0.2,
            SERVING_CACHE_DIR=disk / "cache",
            TMPDIR=disk if holds == "everything" else tmp_path,
        ) as service,
    ):
        wait_until(lambda: service.log.read_text().count("Model loaded") >= WORKERS, "both workers having a model")
        with Load(service.url, test_digits[0], read, chance.randrange(2**32)) as load:
            mend = spoil(disk)
            try:
                version = registry.register(newer)
                load.run_for(300)
                assert service.client.post("/nothing").status_code == 404  # a new series of the metrics
                assert service.client.get("/metrics").status_code == 200
            finally:
                mend()
            wait_until(lambda: all(serves(service, version) for _ in range(10)), "the next version")
            load.run_for(100)
            load.stop()
        count(f"its disk {name}", 1, len(load.requests), len(load.lost))
        assert load.lost == []


def empty(file: Path, chance: random.Random) -> None:
    file.write_bytes(b"")


def cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(1, len(content))])


def change(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(4000):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(content)


def remove(file: Path, chance: random.Random) -> None:
    file.unlink()


def forget(file: Path, chance: random.Random) -> None:
    (file.parents[1] / "last-good.json").write_text(chance.choice(["", "{", "null", '{"key": "../..", "version": 1}']))


def test_damaged_cache_is_downloaded_again_and_never_served(
    start_service: Start,
    registry: Registry,
    model_file: Path,
    test_digits: Digits,
    read: list[int],
    chance: random.Random,
    count: Count,
    tmp_path: Path,
) -> None:
    version = registry.register(model_file)
    cache = tmp_path / "cache"
    settings = {"MLFLOW_TRACKING_URI": registry.uri, "SERVING_POLL_SECONDS": 0.2, "SERVING_CACHE_DIR": cache}
    wrong = asked = 0
    damages = chance.sample([empty, cut, change, remove, forget], DAMAGES)
    with start_service(**settings) as service:
        service.wait_for(200)
    for damage in damages:
        record = json.loads((cache / "models" / "last-good.json").read_text())
        damage(cache / "models" / record["key"] / "model.onnx", chance)
        with start_service(**settings) as service:
            service.wait_for(200)
            assert serves(service, version)
            for _ in range(QUESTIONS):
                first = chance.randrange(len(read) - IMAGES)
                answer = ask(service, "/predict/raw", test_digits[0][first : first + IMAGES])
                asked += 1
                wrong += [one["digit"] for one in answer.json()] != read[first : first + IMAGES]
    count("the cached model damaged", len(damages), asked, wrong)
    assert wrong == 0
