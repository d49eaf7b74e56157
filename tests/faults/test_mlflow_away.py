"""Processes that train while a real MLflow server is killed or paused, and that are killed or stopped themselves."""

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import psutil
import pytest
from mlflow import MlflowClient

from pipeline.tracking import registry
from tests.faults.conftest import SEED, SIZE
from tests.faults.server import Server
from tests.pipeline.recorded import runs
from tests.processes import running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

GATE = ["--subset", "tenth", "--minimum-accuracy", "0.5"]
TRAIN = ["train", *GATE, "--recipe", "dense"]
KILLS = 5 if SIZE == "full" else 2


@contextmanager
def pipeline(server: Server, state: Path, log: Path, *command: str) -> Iterator[psutil.Process]:
    environment = {
        "MLFLOW_TRACKING_URI": server.url,
        "PIPELINE_STATE_DIR": str(state),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    }
    log.write_text("")
    with running([sys.executable, "-m", "pipeline", *command], environment, log) as process:
        yield process


def complete(server: Server, state: Path, log: Path, *command: str) -> None:
    with pipeline(server, state, log, *command) as process:
        assert process.wait(240) == 0, log.read_text()


def assert_one_whole_run() -> None:
    (run,) = runs()
    assert run.info.status == "FINISHED"
    history = MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5]
    (version,) = registry.all_versions()
    assert version.run_id == run.info.run_id
    champion = registry.by_alias("champion")
    assert champion and champion.number == version.number


@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_training_survives_its_server_with_the_same_weights(fault: str, server: Server, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    with pipeline(server, state, log, *TRAIN) as process:
        wait_until(lambda: "dense, epoch 1/5" in log.read_text(), "the first epoch")
        if fault == "killed":
            server.kill()
        else:
            server.signal(signal.SIGSTOP)
        wait_until(lambda: "Waiting for MLflow: " in log.read_text(), "the wait at the end")
        if fault == "killed":
            server.start()
        else:
            server.signal(signal.SIGCONT)
        assert process.wait(240) == 0, log.read_text()
    assert_one_whole_run()
    complete(server, state, log, *TRAIN, "--fresh")
    weights = []
    for version in registry.all_versions():
        file = registry.download(version, tmp_path / str(version.number))
        weights.append([tensor.SerializeToString() for tensor in onnx.load(file).graph.initializer])
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "moment", ["Device: ", "dense, epoch 2/5", "drawn and logged", "Exporting", "Waiting for MLflow"]
)
def test_stop_signal_ends_every_state_within_ten_seconds_while_the_server_hangs(
    moment: str, server: Server, tmp_path: Path
) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    with pipeline(server, state, log, *TRAIN) as process:
        if moment == "Device: ":  # then it connects
            server.signal(signal.SIGSTOP)
        else:
            wait_until(lambda: "dense, epoch 1/5" in log.read_text(), "the first epoch")
            server.signal(signal.SIGSTOP)
        wait_until(lambda: moment in log.read_text(), moment)
        time.sleep(1)
        process.terminate()
        assert process.wait(10) == 130
    server.signal(signal.SIGCONT)
    complete(server, state, log, *TRAIN)
    assert_one_whole_run()


def test_second_stop_signal_ends_at_once(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pipeline(server, tmp_path / "state", log, *TRAIN) as process:
        wait_until(lambda: "dense, epoch 1/5" in log.read_text(), "the first epoch")
        server.signal(signal.SIGSTOP)
        process.terminate()
        time.sleep(1)
        process.terminate()
        assert process.wait(3) == 130


def test_process_that_is_killed_anywhere_leaves_nothing_behind_its_next_command(server: Server, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    moments = random.Random(SEED)
    for attempt in range(KILLS):
        with pipeline(server, state, log, *TRAIN) as process:
            wait_until(
                lambda: "Tracking: " in log.read_text() or process.status() == psutil.STATUS_ZOMBIE, "the connection"
            )
            time.sleep(moments.uniform(0, 6 + 2 * attempt))
            process.kill()
            process.wait()
        complete(server, state, log, "publish", *GATE)
        assert [run.info.run_id for run in runs() if run.info.status == "RUNNING"] == [], attempt
        assert not (state / "outbox").exists()
    complete(server, state, log, *TRAIN)
    assert_one_whole_run()


def test_trainings_at_once_on_a_server_leave_one_champion_that_passed_the_gate(
    server: Server, tmp_path: Path, count: Callable[..., None]
) -> None:
    """The same training twice and another one, each in its own state folder, as on three machines; then a rollback."""
    seeds = ("1", "1", "2")
    logs = [tmp_path / f"log {number}" for number in range(len(seeds))]
    with ExitStack() as stack:
        started = [
            stack.enter_context(pipeline(server, tmp_path / f"state {number}", logs[number], *TRAIN, "--seed", seed))
            for number, seed in enumerate(seeds)
        ]
        assert [process.wait(400) for process in started] == [0, 0, 0], [log.read_text() for log in logs]
    assert [run.info.run_id for run in runs() if run.info.status != "FINISHED"] == []
    versions = {version.number: version for version in registry.all_versions()}
    assert len({version.tags["fingerprint"] for version in versions.values()}) == 2
    champion, previous = registry.by_alias("champion"), registry.by_alias("previous")
    assert champion
    promoted = [version.number for version in versions.values() if version.tags["promoted"] == "true"]
    assert champion.number in promoted
    if previous:
        assert previous.number in promoted
        assert previous.number != champion.number
        complete(server, tmp_path / "state 0", logs[0], "rollback")
        after = registry.by_alias("champion")
        assert after
        assert after.number == previous.number
    count("trainings at once on a server", 1, len(seeds))
