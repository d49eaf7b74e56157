"""The service's registry, a real MLflow server, is killed, paused and restored from yesterday under load."""

import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.processes import wait_until
from tests.serving.conftest import Service
from tests.serving.registry import Registry

from .load import Load
from .server import Server

pytestmark = pytest.mark.faults
FAULTS = ("killed", "paused", "restored")


def serves(service: Service, version: str) -> bool:
    return bool(service.client.get("/model").json().get("version") == version)


def reports_the_fault(service: Service) -> bool:
    return bool(service.client.get("/model").json().get("problem"))


def test_registry_that_goes_away_costs_no_request_and_is_followed_when_it_is_back(
    server: Server,
    start_service: Callable[..., Any],
    _registry_is_forgotten: None,
    model_file: Path,
    newer: Path,
    test_digits: tuple[np.ndarray, np.ndarray],
    read: list[int],
    chance: random.Random,
    count: Callable[..., None],
    tmp_path: Path,
) -> None:
    client = MlflowClient(server.url)
    client.create_registered_model("digits")
    registry = Registry(server.url, client, tmp_path / "made")
    first = registry.register(model_file)
    database, yesterday = tmp_path / "server" / "mlflow.db", tmp_path / "yesterday.db"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(yesterday)) as copy:
        source.backup(copy)
    settings = {"MLFLOW_TRACKING_URI": server.url, "SERVING_POLL_SECONDS": 0.2, "SERVING_REGISTRY_TIMEOUT_SECONDS": 1}
    with start_service(**settings) as service:
        service.wait_for(200)
        with Load(service.url, test_digits[0], read, chance.randrange(2**32)) as load:
            for fault in chance.sample(FAULTS, len(FAULTS)):
                version = registry.register(newer)
                wait_until(partial(serves, service, version), f"version {version} in service")
                if fault == "paused":
                    server.signal(signal.SIGSTOP)
                else:
                    server.kill()
                wait_until(lambda: reports_the_fault(service), "the service's word on its registry")
                load.run_for(200)
                if fault == "paused":
                    server.signal(signal.SIGCONT)
                else:
                    if fault == "restored":
                        shutil.copy(yesterday, database)
                        version = first
                    server.start()
                wait_until(partial(serves, service, version), f"version {version} after it")
                wait_until(lambda: not reports_the_fault(service), "the end of the problem")
            load.run_for(100)
            load.stop()
        count("its registry killed, paused, restored", len(FAULTS), len(load.requests), len(load.lost))
        assert load.lost == []
        assert "Traceback" not in service.log.read_text()
