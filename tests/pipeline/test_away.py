"""`train` and `publish` while the MLflow server fails; a real server behind a proxy that causes the faults."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline import DELIVERY, promotion
from pipeline.__main__ import main
from pipeline.recipes import RECIPES
from pipeline.tracking import outbox, registry
from tests.pipeline.recorded import runs
from tests.pipeline.tracking.proxy import HANG, PASS, REFUSE, Proxy, proxy_of

pytestmark = pytest.mark.slow

SHORT = replace(RECIPES["dense"], epochs=2, batch_size=256)  # no other network has to be trained first
TRAIN = ["train", "--subset", "tenth", "--recipe", "dense", "--minimum-accuracy", "0.5"]
PUBLISH = ["publish", "--subset", "tenth", "--minimum-accuracy", "0.5"]


class Told(logging.Handler):
    """Log lines in order; calls a function once, when a line contains a text."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.actions: dict[str, Callable[[], None]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        for text in [text for text in self.actions if text in self.lines[-1]]:
            self.actions.pop(text)()


@pytest.fixture(scope="module")
def proxy(mlflow_url: str) -> Iterator[Proxy]:
    with proxy_of(mlflow_url) as proxy:
        yield proxy


@pytest.fixture
def told(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _own_environment: None) -> Iterator[Told]:
    before = mlflow.get_tracking_uri(), signal.getsignal(signal.SIGTERM)
    handler, logger = Told(), logging.getLogger("pipeline")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    monkeypatch.setitem(RECIPES, "dense", SHORT)
    for name, value in {
        "MLFLOW_TRACKING_URI": proxy.url,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PIPELINE_STATE_DIR": str(tmp_path),
        "PIPELINE_TRACKING_PATIENCE": "100",
    }.items():
        monkeypatch.setenv(name, value)
    yield handler
    proxy.set(PASS)
    logger.removeHandler(handler)
    mlflow.set_tracking_uri(before[0])
    signal.signal(signal.SIGTERM, before[1])


def release() -> None:
    """Wait for the thread that still sends: then it unlocks its journal, as the end of a process does."""
    for thread in threading.enumerate():
        if thread.name == DELIVERY:
            thread.join()


def steps(seed: int) -> list[int]:
    (run,) = runs(f"params.seed = '{seed}'")
    assert run.info.status == "FINISHED"
    return [metric.step for metric in MlflowClient().get_metric_history(run.info.run_id, "train_loss")]


def is_judged(seed: int) -> bool:
    """Whether the run has one version, with a verdict."""
    (run,) = runs(f"params.seed = '{seed}'")
    (version,) = [version for version in registry.all_versions() if version.run_id == run.info.run_id]
    return promotion.is_judged(version)


@pytest.mark.parametrize(("seed", "mode"), [(11, 503), (12, HANG)])
def test_training_goes_on_without_the_server_and_is_whole_when_it_is_back(
    seed: int, mode: int | str, proxy: Proxy, told: Told, tmp_path: Path
) -> None:
    told.actions["dense, epoch 1/2"] = lambda: proxy.set(mode)
    told.actions["Exporting to ONNX"] = lambda: proxy.set(PASS)
    assert main([*TRAIN, "--seed", str(seed)]) == 0
    assert steps(seed) == [1, 2]
    assert is_judged(seed)
    assert any("Reports to MLflow wait in" in line for line in told.lines)
    assert not (tmp_path / "outbox").exists()


@pytest.mark.parametrize(("seed", "later"), [(21, PUBLISH), (22, [*TRAIN, "--seed", "22"])], ids=["publish", "train"])
def test_server_that_stays_away_costs_no_result(
    seed: int, later: list[str], proxy: Proxy, told: Told, tmp_path: Path
) -> None:
    told.actions["dense, epoch 1/2"] = lambda: proxy.set(REFUSE)
    assert main([*TRAIN, "--seed", str(seed), "--tracking-patience", "1"]) == 3
    assert f"are kept in {tmp_path}/outbox" in told.lines[-1]
    assert "Run `python -m pipeline publish` when it answers." in told.lines[-1]
    release()
    assert main([*later, "--tracking-timeout", "0"]) == (3 if later is PUBLISH else 1)
    proxy.set(PASS)
    assert main(["status"]) == 0
    assert told.lines[-1].endswith("reports wait for MLflow: run `python -m pipeline publish`.")
    told.lines.clear()
    assert main(later) == 0
    assert steps(seed) == [1, 2]
    assert is_judged(seed)
    assert not any("dense, epoch" in line for line in told.lines)
    assert outbox.count(tmp_path) == 0
    assert main(later) == 0
    assert is_judged(seed)


@pytest.mark.parametrize("moment", ["epoch 1/2", "Exporting to ONNX", "Waiting for MLflow"])
def test_stop_signal_ends_a_training_whose_server_hangs(moment: str, proxy: Proxy, told: Told, tmp_path: Path) -> None:
    stopped: list[float] = []

    def stop() -> None:
        stopped.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def hang() -> None:
        proxy.set(HANG)
        if moment == "epoch 1/2":
            stop()

    told.actions = {moment: stop, "epoch 1/2": hang}
    seed = str(31 + len(moment))
    assert main([*TRAIN, "--seed", seed]) == 130
    assert time.monotonic() - stopped[0] < 10
    proxy.set(PASS)
    release()
    assert main([*TRAIN, "--seed", seed]) == 0
    assert steps(int(seed)) == [1, 2]


def test_stop_signal_ends_a_command_that_connects_to_a_server_that_hangs(proxy: Proxy, told: Told) -> None:
    proxy.set(HANG)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    assert main([*PUBLISH, "--tracking-timeout", "60"]) == 130
    assert time.monotonic() - started < 10


def test_run_of_a_registered_version_that_counts_as_running_is_finished(proxy: Proxy, told: Told) -> None:
    assert main([*TRAIN, "--seed", "41"]) == 0
    (run,) = runs("params.seed = '41'")
    MlflowClient().update_run(run.info.run_id, "RUNNING")
    assert main([*TRAIN, "--seed", "41"]) == 0
    assert steps(41) == [1, 2]
