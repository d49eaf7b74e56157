"""A search on real digits: its trials, its best recipe, an interruption, and spaces that cannot be searched."""

import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tests.extras import installed
from tests.processes import ROOT, running, wait_until

from .commands import pipeline

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

SPACE = """
recipe = "dense"
[fields]
learning_rate = { low = 1e-4, high = 3e-1, log = true }
epochs = { low = 4, high = 5 }
batch_size = [32, 128]
"""
TRIALS = 8


def search(space: Path, state: Path, *more: str) -> list[str]:
    return ["search", str(space), "--subset", "tenth", "--state-dir", str(state), "--trials", str(TRIALS), *more]


def command(space: Path, state: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *search(space, state, *more)]


def environment(*more: str) -> dict[str, str]:
    """The variables of a process that has Optuna, and the packages of these extras."""
    return {"PYTHONPATH": os.pathsep.join([*(str(installed(name)) for name in ("search", *more)), str(ROOT)])}


def trials_of(state: Path) -> tuple[MlflowClient, list[Run]]:
    """The runs that are parts of a search."""
    client = MlflowClient(f"sqlite:///{state / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    found = client.search_runs([experiment.experiment_id])
    return client, [run for run in found if MLFLOW_PARENT_RUN_ID in run.data.tags]


def assert_all_trials_are_whole(state: Path, log: str) -> str:
    """All are parts of one search, with each epoch once. Return the sentence on the best one."""
    best = re.search(r"Best of 8 trials: ([\d.]+) % of the validation pictures", log)
    assert best
    client, trials = trials_of(state)
    assert len(trials) == TRIALS
    assert {run.info.status for run in trials} == {"FINISHED"}
    (whole,) = {run.data.tags[MLFLOW_PARENT_RUN_ID] for run in trials}
    assert client.get_run(whole).info.status == "FINISHED"
    accuracies = [run.data.metrics.get("final_validation_accuracy", 0.0) for run in trials]
    assert f"{100 * max(accuracies):.2f}" == best[1]
    for run in trials:
        steps = Counter(metric.step for metric in client.get_metric_history(run.info.run_id, "train_loss"))
        assert set(steps.values()) == {1}
        assert "test_accuracy" not in run.data.metrics  # the test digits choose nothing
    return best[0]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SPACE)
    return path


def test_search_that_is_stopped_continues_and_writes_a_recipe_that_trains(space: Path, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    with running(command(space, state), environment(), log) as process:
        wait_until(lambda: "mine-3, epoch 1/" in log.read_text(), "the fourth trial")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130, log.read_text()
    with running(command(space, state), environment(), log) as process:
        assert process.wait(300) == 0, log.read_text()
    assert "resumes from its checkpoint" in log.read_text()
    best = assert_all_trials_are_whole(state, log.read_text())
    recipe = state / "searches" / "mine.toml"
    trained = pipeline(
        "train", "--recipe", str(recipe), "--subset", "tenth", "--state-dir", str(state), "--minimum-accuracy", "0.5"
    )
    assert trained.returncode == 0, trained.stderr
    again = pipeline(*search(space, state), **environment())
    assert again.returncode == 0, again.stderr
    assert len(trials_of(state)[1]) == TRIALS  # nothing was left to do
    assert best in again.stderr


@pytest.mark.long
def test_trials_on_ray_are_reported_and_cut_short_as_without_it(space: Path, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    with running(command(space, state, "--cluster", "local"), environment("cluster"), log) as process:
        assert process.wait(400) == 0, log.read_text()
    assert "run 8 of 8 is finished" in log.read_text()
    assert_all_trials_are_whole(state, log.read_text())
    assert not (state / "outbox").exists()
    assert not list((state / "checkpoints").glob("*"))
    assert "Traceback" not in log.read_text()


def test_trial_that_diverges_fails_alone(tmp_path: Path) -> None:
    space = tmp_path / "mine.toml"
    space.write_text('recipe = "dense"\n[fields]\nlearning_rate = [1e-3, 1e30]\nepochs = [1, 2]\n')
    done = pipeline(*search(space, tmp_path / "state"), **environment())
    assert done.returncode == 0, done.stderr
    assert "The trial failed: The loss is no longer finite" in done.stderr
    assert "Best of 8 trials" in done.stderr
    assert "with learning_rate 0.001" in done.stderr


def test_space_of_which_every_trial_diverges_is_one_sentence(tmp_path: Path) -> None:
    space = tmp_path / "mine.toml"
    space.write_text('recipe = "dense"\n[fields]\nlearning_rate = [1e29, 1e30]\n')
    done = pipeline(*search(space, tmp_path / "state"), **environment())
    assert done.returncode == 1
    assert "No trial was trained to its end (The loss is no longer finite" in done.stderr
    assert "Traceback" not in done.stderr


def test_search_without_optuna_is_one_sentence(space: Path, tmp_path: Path) -> None:
    done = pipeline(*search(space, tmp_path / "state"))
    assert done.returncode == 1
    assert "`search` needs the package optuna, which is not installed: run `python -m pip" in done.stderr
