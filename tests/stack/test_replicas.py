"""`docker-compose.replicas.yml` on a real engine: replicas that are killed, stopped, added, removed and swapped."""

import re
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.faults.load import Load

from .compose import BUILD_SECONDS, TRAIN_SECONDS, Stack, docker, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.scale]

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]
MOST_IMAGES = 80  # of 784 bytes: 63 kB in one request
METRICS = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8404/metrics', timeout=3).read().decode())"


class Replicas(Stack):
    """Replicas behind their proxy, and a champion with a version before it."""

    def __init__(self) -> None:
        """Choose settings for a short training."""
        super().__init__(
            COMPOSE_FILE="docker-compose.yml:docker-compose.replicas.yml",
            PIPELINE_SUBSET="tenth",
            PIPELINE_RECIPE="dense",
            PIPELINE_MINIMUM_ACCURACY="0.8",
            SERVING_POLL_SECONDS="1",
        )

    def scale(self, number: int) -> None:
        """Start or stop replicas, and wait until the proxy uses them all."""
        self.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", f"serve={number}", "serve")
        wait_for(lambda: self.used() == number, 90, f"the proxy did not use {number} replicas")

    def used(self) -> int:
        """Return the number of replicas that the proxy considers ready."""
        metrics = self.compose("exec", "-T", "proxy", "python", "-ISc", METRICS, check=False).stdout
        return len(
            re.findall(r'^haproxy_server_status\{proxy="serve",server="replica\d+",state="UP"\} 1$', metrics, re.M)
        )

    def replicas(self) -> list[str]:
        """Return the ids of the running containers of the service."""
        return self.compose("ps", "--quiet", "serve").stdout.split()

    def versions(self) -> set[str]:
        """Return the versions that answer 60 requests, each on a connection of its own."""
        return {httpx.get(f"{self.service}/model").raise_for_status().headers["X-Model-Version"] for _ in range(60)}


@pytest.fixture(scope="module")
def replicas() -> Iterator[Replicas]:
    """Start three replicas."""
    flow = Replicas()
    try:
        flow.compose("build", timeout=BUILD_SECONDS)
        flow.compose("up", "--detach", "--scale", "serve=3", timeout=TRAIN_SECONDS)
        flow.compose("run", "--rm", "train", "train", "--seed", "2", timeout=TRAIN_SECONDS)
        wait_for(lambda: flow.used() == 3 and flow.versions() == {"2"}, 90, "three replicas were not ready")
        yield flow
    finally:
        flow.remove()


@pytest.fixture
def load(replicas: Replicas, test_digits: Digits) -> Iterator[Load]:
    """Eight clients with bodies of 63 kB."""
    images = test_digits[0][:400]
    answers = httpx.post(f"{replicas.service}/predict/raw", content=images.tobytes(), timeout=60).raise_for_status()
    digits = [one["digit"] for one in answers.json()]
    with Load(replicas.service, images, digits, seed=1, size=MOST_IMAGES) as load:
        load.run_for(300)
        yield load


def report(what: str, load: Load) -> None:
    load.run_for(500)
    load.stop()
    print(f"{what}: requests: {len(load.requests)}, lost: {len(load.lost)}")


def test_replica_that_is_killed_costs_no_request(replicas: Replicas, load: Load) -> None:
    docker("kill", "--signal", "KILL", replicas.replicas()[0])
    report("a replica killed", load)
    assert load.lost == []
    replicas.scale(3)


def test_replica_that_is_stopped_costs_no_request(replicas: Replicas, load: Load) -> None:
    docker("stop", replicas.replicas()[0])
    report("a replica stopped", load)
    assert load.lost == []
    replicas.scale(3)


@pytest.mark.long
def test_more_and_fewer_replicas_cost_no_request(replicas: Replicas, load: Load) -> None:
    for number in (2, 4, 2):
        replicas.scale(number)
        load.run_for(300)
    report("from 3 replicas to 2, to 4 and to 2", load)
    assert load.lost == []
    replicas.scale(3)


def test_replica_answers_with_the_version_that_is_wanted_or_not_at_all(replicas: Replicas) -> None:
    body = bytes(784)
    for version, status in (("2", 200), ("1", 409)):
        answer = httpx.post(
            f"{replicas.service}/predict/raw", content=body, headers={"X-Model-Version": version}, timeout=60
        )
        assert (answer.status_code, answer.headers["X-Model-Version"]) == (status, "2")


def test_swap_over_all_replicas_costs_no_request(replicas: Replicas, load: Load) -> None:
    replicas.compose("run", "--rm", "train", "rollback", timeout=TRAIN_SECONDS)
    wait_for(lambda: replicas.versions() == {"1"}, 60, "a replica kept its version")
    report("a swap over all replicas", load)
    assert [request for request in load.requests if request.status != 200] == []
    assert {request.version for request in load.requests} == {"1", "2"}
    assert load.requests[-1].version == "1"


def test_metrics_of_one_replica_are_not_those_of_all(replicas: Replicas) -> None:
    refused = httpx.get(f"{replicas.service}/metrics")
    assert refused.status_code == 404
    (first, *_) = replicas.replicas()
    found = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:3000/metrics').status)"
    assert docker("exec", first, "python", "-ISc", found).strip() == "200"
