"""Comparisons on a real Ray: one machine, two machines of which one dies, and clusters that cannot be used."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.comparison import assert_all_runs_are_whole
from tests.extras import installed
from tests.processes import ROOT, free_port, running, wait_until

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

EPOCHS = 8


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """The variables of a process that has Ray."""
    paths = [str(installed("cluster")), str(ROOT)]
    return {"PYTHONPATH": os.pathsep.join(paths), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that is long enough to be killed."""
    path = tmp_path / "long.toml"
    path.write_text(f"epochs_on_tenth = {EPOCHS}\nbatch_size = 64\n")
    return path


def compare(state: Path, recipe: Path, cluster: str, *more: str) -> list[str]:
    command = [sys.executable, "-m", "pipeline", "compare", "--subset", "tenth", "--state-dir", str(state)]
    return [*command, "--recipes", str(recipe), "--seeds", "4", "--cluster", cluster, *more]


def assert_all_are_whole(state: Path, epochs: int) -> None:
    assert_all_runs_are_whole(MlflowClient(f"sqlite:///{state / 'mlflow.db'}"), 4, epochs)
    assert not (state / "outbox").exists()
    assert not list((state / "checkpoints").glob("*"))


@contextmanager
def machine(environment: dict[str, str], log: Path, *options: str) -> Iterator[psutil.Process]:
    """A raylet with one CPU; `kill` ends it as a power failure does."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *options]
    with running(command, environment, log) as process:
        wait_until(lambda: "Ray runtime started" in log.read_text(), f"Ray: {log}")
        yield process
        kill(process)


def kill(process: psutil.Process) -> None:
    for each in [*process.children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


@pytest.fixture
def head(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The first machine of a cluster; gives its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: the names of its sockets are limited
        options = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        with machine(environment, tmp_path / "head.log", "--node-ip-address=127.0.0.1", *options):
            yield f"127.0.0.1:{port}"


@pytest.mark.long
def test_machine_that_dies_costs_no_run_and_no_epoch(
    head: str, environment: dict[str, str], recipe: Path, tmp_path: Path
) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    with (
        machine(environment, tmp_path / "second.log", f"--address={head}") as second,
        running(compare(state, recipe, head), environment, log) as process,
    ):
        wait_until(lambda: log.read_text().count("epoch 2/8") == 2, "two runs in their third epoch", 300)
        kill(second)
        assert process.wait(400) == 0, log.read_text()
    assert log.read_text().count("resumes from its checkpoint") == 1
    assert_all_are_whole(state, EPOCHS)


def test_this_machine_is_a_cluster_too(environment: dict[str, str], tmp_path: Path) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text('epochs_on_tenth = 2\n[network]\nname = "DenseNet"\n')
    with running(compare(tmp_path / "state", recipe, "local"), environment, tmp_path / "log") as process:
        assert process.wait(400) == 0, (tmp_path / "log").read_text()
    assert_all_are_whole(tmp_path / "state", 2)
    client = MlflowClient(f"sqlite:///{tmp_path / 'state' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    listed = json.loads(Path(client.download_artifacts(found["comparison"].info.run_id, "runs.json")).read_text())
    assert {listed[f"short, seed {seed}"] for seed in range(1, 5)} == {
        found[f"short-{seed} (tenth)"].info.run_id for seed in range(1, 5)
    }


def test_run_that_fails_on_a_cluster_is_one_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    recipe, log = tmp_path / "diverges.toml", tmp_path / "log"
    recipe.write_text('learning_rate = 1e30\n[network]\nname = "DenseNet"\n')
    with running(compare(tmp_path / "state", recipe, "local"), environment, log) as process:
        assert process.wait(200) == 1, log.read_text()
    assert re.search(r"diverges, seed \d: The loss is no longer finite at step", log.read_text().splitlines()[-1])
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("cluster", "more", "sentence"),
    [
        ("127.0.0.1:9", [], "The cluster 127.0.0.1:9 cannot be used ("),
        ("local", ["--cpus-per-run", "4096"], "No machine has 4096 CPUs and 0 GPUs for a run (there are: "),
    ],
)
def test_cluster_that_cannot_be_used_is_one_sentence(
    cluster: str, more: list[str], sentence: str, environment: dict[str, str], recipe: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running(compare(tmp_path / "state", recipe, cluster, *more), environment, log) as process:
        assert process.wait(200) == 1, log.read_text()
    assert sentence in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
