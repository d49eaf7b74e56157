"""Commands at once: in one state folder they take turns, on a server each looks again before it writes."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.recipes import RECIPES
from pipeline.tracking import registry
from tests.pipeline.conftest import Done
from tests.processes import running, wait_until

pytestmark = pytest.mark.slow

GATE = ["--subset", "tenth", "--minimum-accuracy", "0.5", "--significance", "0.000001"]
TRAIN = [sys.executable, "-m", "pipeline", "train", "--recipe", "dense", *GATE]


def said(log: Path, text: str) -> bool:
    return log.exists() and text in log.read_text()


def versions(state: Path) -> list[str]:
    client = mlflow.MlflowClient(f"sqlite:///{state}/mlflow.db")
    return [str(found.version) for found in client.search_model_versions("name = 'digits'")]


def test_second_training_waits_and_finds_the_result(tmp_path: Path) -> None:
    state, logs = tmp_path / "var", [tmp_path / "first", tmp_path / "second"]
    with ExitStack() as stack:  # at once, and the first ever in this folder: MLflow makes its tables
        started = [stack.enter_context(running([*TRAIN, "--state-dir", str(state)], {}, log)) for log in logs]
        assert [process.wait(300) for process in started] == [0, 0], [log.read_text() for log in logs]
    waited = [log for log in logs if said(log, "has its turn in")]
    assert len(waited) == 1
    assert said(waited[0], "Version 1 already matches these settings")
    assert versions(state) == ["1"]
    assert not list(state.glob("*.lock"))


def test_turn_of_a_killed_process_passes_on(tmp_path: Path, state: Path) -> None:
    logs = [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-m", "pipeline", "train", "--subset", "tenth", "--state-dir", str(state)]  # a long one
    with running(command, {}, logs[0]) as first:
        wait_until(lambda: said(logs[0], "dense, epoch 1/5"), "the first epoch")
        with running(command, {}, logs[1]) as second:
            wait_until(lambda: said(logs[1], f"Process {first.pid} has its turn in {state}"), "the second one waiting")
            first.kill()
            wait_until(lambda: said(logs[1], " resumes from its checkpoint after "), "the second one's turn")
            second.kill()


def test_rollback_does_not_wait_for_a_training(tmp_path: Path, state: Path) -> None:
    log = tmp_path / "log"
    with running([*TRAIN, "--state-dir", str(state)], {}, log):
        wait_until(lambda: said(log, "dense, epoch 1/5"), "the first epoch")
        back = [sys.executable, "-m", "pipeline", "rollback", "--state-dir", str(state)]
        done = subprocess.run(back, capture_output=True, text=True, timeout=300, check=False)
        assert "no previous version to go back to" in done.stderr
        assert "has its turn" not in done.stderr


@pytest.fixture
def candidates(state: Path, linear_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """Three equal versions, of which 1 is champion."""
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(state))
    client = mlflow.MlflowClient(f"sqlite:///{state}/mlflow.db")
    client.create_registered_model("digits")
    for number in ("1", "2", "3"):
        (state / number).mkdir()
        shutil.copy(linear_model, state / number / "model.onnx")
        client.create_model_version("digits", (state / number).as_uri(), tags={"data": "tenth"})
    client.set_registered_model_alias("digits", "champion", "1")
    yield client


def test_gate_judges_again_if_the_champion_has_changed(
    candidates: mlflow.MlflowClient, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    download = mlflow.artifacts.download_artifacts

    def while_another_process_promotes(*given: Any, **named: Any) -> str:
        candidates.set_registered_model_alias("digits", "champion", "2")
        return str(download(*given, **named))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", while_another_process_promotes)
    done = command("promote", "--version", "3", *GATE)
    assert done.returncode == 0
    assert "The champion has changed meanwhile: judging version 3 again." in done.log
    champion, previous = registry.by_alias("champion"), registry.by_alias("previous")
    assert champion and previous
    assert (champion.number, previous.number) == (3, 2)


def test_training_registers_nothing_if_another_process_did_meanwhile(
    candidates: mlflow.MlflowClient, state: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "dense", replace(RECIPES["dense"], epochs=1, batch_size=64))
    log_batch = mlflow.MlflowClient.log_batch

    def while_another_process_registers(client: mlflow.MlflowClient, run_id: str, *given: Any, **named: Any) -> None:
        mark = client.get_run(run_id).data.tags["fingerprint"]
        if not registry.find(mark):
            source = (state / "2").as_uri()
            candidates.create_model_version("digits", source, tags={"data": "tenth", "fingerprint": mark})
        log_batch(client, run_id, *given, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", while_another_process_registers)
    done = command("train", "--recipe", "dense", *GATE)
    assert done.returncode == 0
    assert "Version 4, of the same settings, data and code, was registered meanwhile." in done.log
    assert sorted(versions(state)) == ["1", "2", "3", "4"]
