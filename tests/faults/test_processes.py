"""Workers and the service are killed and stopped under load."""

import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.processes import wait_until
from tests.serving.conftest import Service

from .load import Load

pytestmark = pytest.mark.faults
Digits = tuple[np.ndarray, np.ndarray]
Count = Callable[..., None]
Start = Callable[..., Any]
WORKERS = 2
KILLS = 2


def ports_of(worker: psutil.Process) -> set[int]:
    """The clients' ends of a worker's connections."""
    return {connection.raddr.port for connection in worker.net_connections("tcp4") if connection.raddr}


@contextmanager
def started(start_service: Start, model_file: Path) -> Iterator[Service]:
    """A service with two workers that have their model."""
    with start_service(SERVING_MODEL=model_file, SERVING_WORKERS=WORKERS) as service:
        wait_until(lambda: service.log.read_text().count("Model loaded") >= WORKERS, "both workers having a model")
        yield service


def all_serve(service: Service) -> bool:
    return len(service.workers) == WORKERS and all(ports_of(worker) for worker in service.workers)


def test_killed_worker_loses_only_the_requests_of_its_connections(
    start_service: Start,
    model_file: Path,
    test_digits: Digits,
    read: list[int],
    chance: random.Random,
    count: Count,
) -> None:
    with (
        started(start_service, model_file) as service,
        Load(service.url, test_digits[0], read, chance.randrange(2**32), pause=0) as load,
    ):
        may_fail: set[int] = set()
        for _ in range(KILLS):
            wait_until(lambda: all_serve(service), "both workers having connections")
            load.run_for(chance.randrange(50, 300))
            worker = chance.choice(service.workers)
            worker.suspend()  # so that it accepts no connection between the look and the kill
            may_fail |= ports_of(worker)
            worker.kill()
            wait_until(lambda gone=worker: not gone.is_running(), "the end of the worker")  # type: ignore[misc]
        wait_until(lambda: all_serve(service), "both workers having connections")
        load.run_for(200)
        load.stop()
        count(
            "a worker killed under load",
            KILLS,
            len(load.requests),
            len(load.lost),
            "requests in progress on the killed worker's connections",
        )
        assert [request for request in load.lost if request.port not in may_fail] == []
        assert len(load.lost) <= len(may_fail)
        assert len(service.workers) == WORKERS


def test_killed_service_answers_what_it_accepted_and_starts_again(
    start_service: Start,
    model_file: Path,
    test_digits: Digits,
    read: list[int],
    chance: random.Random,
    count: Count,
) -> None:
    with (
        started(start_service, model_file) as service,
        Load(service.url, test_digits[0], read, chance.randrange(2**32), pause=0) as load,
    ):
        wait_until(lambda: all_serve(service), "both workers having connections")
        load.run_for(chance.randrange(50, 300))
        workers = service.workers
        killed = time.monotonic()
        service.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
        load.stop()
        lost = [request for request in load.lost if request.began < killed]
        count("the parent killed under load", 1, accepted(load, killed), len(lost))
        assert lost == []
        socket.create_server(("127.0.0.1", int(service.url.rpartition(":")[2]))).close()
    with started(start_service, model_file) as again:
        assert again.client.get("/readyz").status_code == 200


def test_stopped_service_answers_what_it_accepted(
    start_service: Start,
    model_file: Path,
    test_digits: Digits,
    read: list[int],
    chance: random.Random,
    count: Count,
) -> None:
    with (
        started(start_service, model_file) as service,
        Load(service.url, test_digits[0], read, chance.randrange(2**32), pause=0) as load,
    ):
        wait_until(lambda: all_serve(service), "both workers having connections")
        load.run_for(chance.randrange(50, 300))
        family = [service.process, *service.workers]
        stopped = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
        load.stop()
        lost = [request for request in load.lost if request.began < stopped]
        count("SIGTERM under load", 1, accepted(load, stopped), len(lost))
        assert lost == []
        assert "Traceback" not in service.log.read_text()


def accepted(load: Load, until: float) -> int:
    return sum(request.began < until for request in load.requests)
