"""Reports to a real MLflow server that fails in between: each arrives once, in order."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import outbox, runs
from pipeline.tracking.connection import AwayError, connect
from pipeline.tracking.delivery import Delivery, deliver_left
from pipeline.tracking.runs import ActiveRun, EpochLogger, RecordedRun
from pipeline.training.callback import Epoch
from tests.pipeline.recorded import artifact
from tests.pipeline.tracking.proxy import CUT, HANG, PASS, REFUSE, SLOW, Proxy, proxy_of
from tests.processes import wait_until

pytestmark = pytest.mark.slow

EPOCHS = [
    Epoch(number, 10 * number, [(10 * number - 5, 0.5)], 1 / number, 0.3, 0.9, 1e-3, 5e3, 1.0) for number in (1, 2, 3)
]


@pytest.fixture(scope="module")
def proxy(mlflow_url: str) -> Iterator[Proxy]:
    with proxy_of(mlflow_url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _connected(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _own_environment: None) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    connect(tmp_path, 60)
    yield
    proxy.set(PASS)
    mlflow.set_tracking_uri(before)


def report(delivery: Delivery, model_file: Path, between: Callable[[], None] = lambda: None) -> str:
    """Report a whole run; `between` is called after its first epoch."""
    with runs.start(delivery, "some run", {"fingerprint": "f" * 64}) as run:
        run.log_parameters({"seed": 1})
        run.log_epoch(EPOCHS[0])
        between()
        for epoch in EPOCHS[1:]:
            run.log_epoch(epoch)
        run.log_metrics({"test_accuracy": 0.97})
        run.log_files({"report.html": f"<p>{run.key}</p>", "pictures/one.png": b"picture"})
        run.describe(f"[Report]({run.page_of('report.html')})")
        run.register(model_file, np.zeros((2, 28, 28), np.uint8))
    return run.key


def recorded(key: str) -> Run:
    """The run with a key, and no second one."""
    (run,) = mlflow.search_runs(
        experiment_names=["digits"], filter_string=f"tags.run_key = '{key}'", output_format="list"
    )
    return run


def assert_whole(key: str) -> None:
    run = recorded(key)
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "some run", {"seed": "1"})
    assert run.data.metrics["test_accuracy"] == 0.97
    client = MlflowClient()
    for name, steps in (("train_loss", [1, 2, 3]), ("learning_rate", [1, 2, 3]), ("step_loss", [5, 15, 25])):
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == steps, name
        assert sorted(metric.timestamp for metric in history) == [metric.timestamp for metric in history]
    assert artifact(run, "report.html").decode() == f"<p>{run.info.run_id}</p>"
    assert artifact(run, "pictures/one.png") == b"picture"
    assert f"/runs/{run.info.run_id}/artifacts/report.html" in run.data.tags["mlflow.note.content"]
    assert len(versions(run)) == 1


def versions(run: Run) -> list[str]:
    return [version.version for version in MlflowClient().search_model_versions(f"run_id = '{run.info.run_id}'")]


@pytest.mark.parametrize("mode", [500, 503, HANG, REFUSE, SLOW])
def test_server_that_fails_in_the_middle_gets_everything_when_it_is_back(
    mode: str | int, proxy: Proxy, tmp_path: Path, model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline"), Delivery(tmp_path, 100) as delivery:
        started = time.monotonic()
        key = report(delivery, model_file, lambda: proxy.set(mode))
        assert time.monotonic() - started < 30  # reporting waits for nothing
        if mode != SLOW:
            wait_until(lambda: "Reports to MLflow wait in" in caplog.text, "the first failure")
        proxy.set(PASS)
    assert_whole(key)
    assert not (tmp_path / "outbox").exists()


@pytest.mark.parametrize(
    ("only", "times"),
    [
        ("runs/create", 1),
        ("runs/log-batch", 4),
        ("runs/update", 1),
        ("mlflow-artifacts", 3),
        ("logged-models", 2),
        ("registered-models/create", 1),
        ("model-versions/create", 1),
    ],
)
def test_request_that_was_carried_out_without_an_answer_has_its_effect_once(
    only: str, times: int, proxy: Proxy, tmp_path: Path, model_file: Path
) -> None:
    proxy.set(CUT, only, times)
    with Delivery(tmp_path, 100) as delivery:
        key = report(delivery, model_file)
    assert proxy.affected == times
    proxy.set(PASS)
    assert_whole(key)


def test_server_that_stays_away_ends_the_wait_and_the_next_command_delivers(
    proxy: Proxy, tmp_path: Path, model_file: Path
) -> None:
    told = r"did not take the last \d+ reports .*python -m pipeline publish"
    with pytest.raises(AwayError, match=told) as caught, Delivery(tmp_path, 2) as delivery:

        def go_away() -> None:
            wait_until(lambda: not delivery.journal.pending(), "the delivery")
            proxy.set(503)

        key = report(delivery, model_file, go_away)
    assert caught.value.exit_code == 3
    proxy.set(PASS)
    delivery._thread.join()
    assert recorded(key).info.status == "RUNNING"
    waiting = outbox.count(tmp_path)
    assert deliver_left(tmp_path, 100) == waiting > 5
    assert_whole(key)
    assert deliver_left(tmp_path, 100) == 0
    assert not (tmp_path / "outbox").exists()


def test_reports_for_another_server_are_left_alone_and_named(
    proxy: Proxy, mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = outbox.create(tmp_path, "http://elsewhere:5000")
    journal.append("create", "a" * 32, {"name": "x", "tags": {}, "parent": None}, {})
    journal.close()
    assert deliver_left(tmp_path, 5) == 0
    assert "are for the MLflow server at http://elsewhere:5000: set MLFLOW_TRACKING_URI to it" in caplog.text
    assert outbox.count(tmp_path) == 1


def test_run_of_a_dead_process_is_ended_and_then_resumed_with_each_epoch_once(tmp_path: Path) -> None:
    key = "d" * 32
    cut = Delivery(tmp_path, 100)
    cut._thread.start()
    cut.put("create", key, {"name": "cut off", "tags": {"recipe": "x"}, "parent": None})
    run = ActiveRun(cut, key, RecordedRun(key, "cut off", "RUNNING", {}, {}, {}), resumed=False)
    run.log_parameters({"seed": 3})
    run.log_epoch(EPOCHS[0])
    wait_until(lambda: not cut.journal.pending(), "the delivery")
    with cut._changed:
        cut._ending = True
        cut._changed.notify_all()
    cut._thread.join()  # it unlocks the journal, as `kill -9` does, which runs nothing else
    assert recorded(key).info.status == "RUNNING"
    assert deliver_left(tmp_path, 100) == 1
    assert recorded(key).info.status == "KILLED"
    with Delivery(tmp_path, 100) as delivery, runs.start(delivery, "cut off", {"recipe": "x"}, key) as again:
        assert (again.resumed, again.key, again.recorded().parameters) == (True, key, {"seed": "3"})
        EpochLogger(again).resume(EPOCHS[:2], 0)
    assert recorded(key).info.status == "FINISHED"
    history = MlflowClient().get_metric_history(recorded(key).info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]


def test_run_that_was_deleted_meanwhile_is_no_reason_to_fail(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Delivery(tmp_path, 100) as delivery, runs.start(delivery, "deleted", {}) as run:
        wait_until(lambda: not delivery.journal.pending(), "the delivery")
        MlflowClient().delete_run(recorded(run.key).info.run_id)
        run.log_metrics({"test_accuracy": 1.0})
    assert "MLflow refuses a part of the run (metrics): it is left out." in caplog.text
    assert not (tmp_path / "outbox").exists()
