"""The command line with MLflow's embedded store: in a process of its own if signals or the exit matter.

The other commands run in this process, which has torch and MLflow imported already.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import mlflow
import onnx
import pytest

from tests.pipeline.conftest import Done
from tests.processes import ROOT, free_port, mlflow_server, running, wait_until

pytestmark = pytest.mark.slow

DENSE = ["train", "--subset", "tenth", "--recipe", "dense"]


def pipeline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _holds(log: Path, text: str) -> bool:
    return text in log.read_text()


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def test_train_without_a_server_keeps_all_in_one_folder_and_says_why_nothing_is_served(
    tmp_path: Path, command: Callable[..., Done]
) -> None:
    done = pipeline(*DENSE, "--state-dir", str(tmp_path / "var"))
    assert done.returncode == 1  # the dense network does not reach the minimum
    assert "There is no champion to serve: version 1 was not promoted: it classifies 9" in last_line(done)
    assert {path.name for path in (tmp_path / "var").iterdir()} == {"mlflow.db", "artifacts", "checkpoints"}
    assert "Device: " in done.stderr
    assert "dense, epoch 5/5: loss" in done.stderr
    here = ("--state-dir", str(tmp_path / "var"))
    again = command(*DENSE, *here)
    assert again.returncode == 1
    assert any("skipping training" in line for line in again.log)
    assert "was not promoted" in again.log[-1]
    lower = command(*DENSE, "--minimum-accuracy", "0.8", *here)
    assert lower.returncode == 0  # without a champion, another minimum judges it again
    assert any("skipping training" in line for line in lower.log)
    assert "Champion: version 1" in lower.log[-1]
    higher = command("promote", "--subset", "tenth", "--minimum-accuracy", "1", *here)
    assert higher.returncode == 0
    assert higher.log[-1] == "Version 1 is already champion."
    folder = command("export", "--to", str(tmp_path), *here)
    assert folder.returncode == 1
    assert folder.log[-1] == f"{tmp_path} cannot be written (Is a directory): name a file with --to."
    assert not list(tmp_path.parent.glob("*.partial"))
    status = command("status", *here)
    assert status.returncode == 0
    assert "champion" in status.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["train", "--recipe", "x"], {}, "there is no such recipe; there are: chapter, dense, third-block"),
        (["train", "--device", "tpu"], {}, "PIPELINE_DEVICE (--device) cannot be 'tpu'"),
        (["train"], {"PIPELINE_SED": "1"}, "There is no setting PIPELINE_SED: did you mean PIPELINE_SEED?"),
        (["train"], {"MNIST_DIR": "/nowhere"}, "MNIST_DIR=/nowhere is not a folder"),
        (["train", "--subset", "full"], {"MNIST_DIR": "/nowhere"}, "set it to the folder that holds MNIST/raw/"),
        (["fly"], {}, "invalid choice: 'fly'"),
        ([], {}, "COMMAND"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    arguments: list[str], environment: dict[str, str], told: str, tmp_path: Path
) -> None:
    done = pipeline(*arguments, PIPELINE_STATE_DIR=str(tmp_path / "var"), **environment)
    assert done.returncode == 2
    assert told in last_line(done)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "var").exists()  # nothing was started


def test_unreachable_mlflow_is_waited_for_and_then_told(tmp_path: Path, command: Callable[..., Done]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    done = command(
        *DENSE,
        MLFLOW_TRACKING_URI=uri,
        PIPELINE_TRACKING_TIMEOUT="7",
        PIPELINE_STATE_DIR=str(tmp_path),
    )
    assert done.returncode == 1
    assert any(line.startswith(f"Waiting for the MLflow server at {uri}") for line in done.log)
    assert f"The MLflow server at {uri} did not answer within 7 s: start it, or correct" in done.log[-1]


def test_commands_on_an_empty_registry_say_what_to_do(state: Path, command: Callable[..., Done]) -> None:
    for arguments in (["export", "--to", "model.onnx"], ["promote", "--subset", "tenth"], ["rollback"]):
        done = command(*arguments, "--state-dir", str(state))
        assert done.returncode == 1
        assert "python -m pipeline" in done.log[-1]


def test_status_of_an_empty_registry(state: Path, command: Callable[..., Done]) -> None:
    done = command("status", "--state-dir", str(state))
    assert done.returncode == 0
    assert done.stdout.strip() == "No version of digits is registered yet: run `python -m pipeline train`."


# A shell gives what a script starts in the background no Ctrl-C.
IN_THE_BACKGROUND = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]


@pytest.mark.parametrize("starter", [[], IN_THE_BACKGROUND], ids=["in front", "in the background"])
def test_a_command_that_does_not_train_can_be_stopped_as_well(tmp_path: Path, starter: list[str]) -> None:
    log = tmp_path / "log"
    command = [*starter, sys.executable, "-m", "pipeline", "status", "--state-dir", str(tmp_path)]
    with running(command, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}, log) as process:
        wait_until(lambda: "Waiting for the MLflow server" in log.read_text(), "the wait for MLflow")
        process.terminate()
        assert process.wait(30) == 130


STOPPED_IN_A_DESTRUCTOR = """
import signal, time
from pipeline.__main__ import repeat_ignored_interrupts

class Stopped:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

signal.signal(signal.SIGTERM, signal.default_int_handler)
repeat_ignored_interrupts()
stopped = Stopped()
try:
    del stopped
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def test_stop_signal_in_a_destructor_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_A_DESTRUCTOR], check=False, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_docker_stop_ends_a_run_in_order(tmp_path: Path, state: Path) -> None:
    log = tmp_path / "log"
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "train",
        "--subset",
        "tenth",
        "--state-dir",
        str(state),
    ]
    with running(command, {}, log) as process:
        wait_until(lambda: "dense, epoch 1/5" in log.read_text(), "the first epoch")
        process.terminate()
        assert process.wait(60) == 130
    assert log.read_text().splitlines()[-1].endswith("Progress is saved; run the same command to resume.")
    assert [file.name[:6] for file in (state / "checkpoints").iterdir()] == ["dense-"]
    mlflow.set_tracking_uri(f"sqlite:///{state}/mlflow.db")
    (run,) = mlflow.search_runs(experiment_names=["digits"], output_format="list")
    assert run.info.status == "FAILED"


def test_mlflow_that_goes_away_for_good_is_one_sentence(tmp_path: Path, empty_store: Path) -> None:
    log = tmp_path / "log"
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    command = [sys.executable, "-m", "pipeline", *DENSE, "--state-dir", str(tmp_path), "--tracking-patience", "2"]
    with ExitStack() as training:
        with mlflow_server(tmp_path) as url:
            environment = {"MLFLOW_TRACKING_URI": url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
            process = training.enter_context(running(command, environment, log))
            wait_until(lambda: "dense, epoch 1/5" in log.read_text(), "the first epoch")
        assert process.wait(120) == 3
    assert "dense, epoch 5/5" in log.read_text()  # training continued
    assert log.read_text().splitlines()[-1].endswith("Run `python -m pipeline publish` when it answers.")
    assert list(tmp_path.glob("outbox/*/operations.jsonl"))


def test_run_that_was_killed_goes_on_and_ends_with_the_same_model(tmp_path: Path, empty_store: Path) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text("epochs_on_tenth = 4\nbatch_size = 64\none_cycle = true\naveraging = 0.9\nlearning_rate = 0.003")
    command = ["train", "--subset", "tenth", "--recipe", str(recipe), "--minimum-accuracy", "0.5"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
    assert pipeline(*command, "--state-dir", str(whole)).returncode == 0
    log = tmp_path / "log"
    with running([sys.executable, "-m", "pipeline", *command, "--state-dir", str(cut)], {}, log) as process:
        wait_until(lambda: "short, epoch 2/4" in log.read_text(), "the second epoch")
        process.kill()
        process.wait()
    again = pipeline(*command, "--state-dir", str(cut))
    assert again.returncode == 0, again.stderr
    assert "short resumes from its checkpoint after " in again.stderr
    assert "epoch 1/4" not in again.stderr
    assert not list((cut / "checkpoints").iterdir())

    def weights(state: Path) -> list[bytes]:
        (file,) = state.rglob("model.onnx")
        return [tensor.SerializeToString() for tensor in onnx.load(file).graph.initializer]

    assert weights(cut) == weights(whole)
    mlflow.set_tracking_uri(f"sqlite:///{cut}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["digits"], output_format="list", order_by=["start_time ASC"])
    assert [(run.data.tags["recipe"], run.info.status) for run in runs] == [
        ("dense", "FINISHED"),
        ("short", "FINISHED"),
    ]
    history = mlflow.MlflowClient().get_metric_history(runs[1].info.run_id, "train_loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_run_that_was_stopped_again_and_again_has_all_it_said_in_one_log(tmp_path: Path, state: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "pipeline", "train", "--subset", "tenth", "--recipe", "dense"]
    command += ["--state-dir", str(state), "--minimum-accuracy", "0.5"]
    for reached in ("dense, epoch 1/5", "dense, epoch 2/5"):
        with running(command, {}, log) as process:
            wait_until(partial(_holds, log, reached), "the epoch")
            process.terminate()
            assert process.wait(60) == 130
    assert pipeline(*command[3:]).returncode == 0
    (said,) = tmp_path.rglob("console.log")
    epochs = [line.split(":")[2].split(", ")[1] for line in said.read_text().splitlines() if "dense, epoch" in line]
    assert epochs == [f"epoch {number}/5" for number in range(1, 6)]
