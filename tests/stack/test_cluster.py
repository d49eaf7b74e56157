"""`docker-compose.cluster.yml` on a real engine: two workers, of which one is killed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.comparison import assert_all_runs_are_whole

from .compose import BUILD_SECONDS, ROOT, TRAIN_SECONDS, Stack, docker, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.scale, pytest.mark.long]

COMPARE = ("exec", "-T", "head", "python", "-m", "pipeline", "compare", "--recipes", "chapter", "--seeds", "4")
EPOCHS = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Stack]:
    """A head and two workers."""
    flow = Stack(COMPOSE_FILE="docker-compose.yml:docker-compose.cluster.yml", PIPELINE_SUBSET="tenth")
    try:
        flow.compose("build", "mlflow", "head", "worker", timeout=BUILD_SECONDS)
        flow.compose("up", "--detach", "--scale", "worker=2", "head", "worker", timeout=TRAIN_SECONDS)
        yield flow
    finally:
        flow.remove()


def test_worker_that_is_killed_costs_no_run_and_no_epoch(cluster: Stack, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["docker", "compose", "--project-name", cluster.project, *COMPARE],
            cwd=ROOT,
            env=cluster.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: log.read_text().count(f"epoch 2/{EPOCHS}") == 2, 300, "no two runs in their third epoch")
        docker("kill", cluster.container("worker").splitlines()[0])
        assert process.wait(TRAIN_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
    assert log.read_text().count("resumes from its checkpoint") == 1
    assert_all_runs_are_whole(MlflowClient(cluster.tracking), 4, EPOCHS)


def test_only_the_nodes_have_ray(cluster: Stack) -> None:
    found = 'import importlib.util; print(importlib.util.find_spec("ray") is not None)'
    assert cluster.compose("exec", "-T", "worker", "python", "-c", found).stdout.strip() == "True"
    cluster.compose("build", "train", timeout=BUILD_SECONDS)
    asked = ("run", "--rm", "--no-deps", "--entrypoint", "python", "train", "-c", found)
    assert cluster.compose(*asked).stdout.strip() == "False"
