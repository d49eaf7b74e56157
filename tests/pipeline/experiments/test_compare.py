"""`compare` end to end, with MLflow's embedded store and small networks on the bundled tenth."""

import csv
import io
import json
import logging
import os
import shutil
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from PIL import Image

from pipeline.__main__ import main
from tests.pipeline.recorded import artifact, runs

pytestmark = pytest.mark.slow

RECIPES = {
    "small": "epochs_on_tenth = 2\nbatch_size = 256\nnetwork = { name = 'DenseNet' }",
    "other": "epochs_on_tenth = 1\nbatch_size = 256\nnetwork = { filters = [4] }",
    "twin": "epochs_on_tenth = 2\nbatch_size = 256\nnetwork = { name = 'DenseNet' }",
    "wild": "epochs_on_tenth = 1\nbatch_size = 256\nlearning_rate = 1e30",
    "slow": "epochs_on_tenth = 3\nbatch_size = 256\nnetwork = { name = 'DenseNet' }",
}
IMAGES = 5500  # of the tenth, to train on


class Told(logging.Handler):
    """Log lines in order; sends a signal when a line begins with `stop_at`."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.stop_at: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if self.stop_at and self.lines[-1].startswith(self.stop_at):
            self.stop_at = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    shutil.copy(empty_store, folder / "mlflow.db")
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module", autouse=True)
def listener(folder: Path) -> Iterator[Told]:
    """One training by `train`, and one comparison; the tests below look at them, in their order."""
    handler, logger = Told(), logging.getLogger("pipeline")
    before = mlflow.get_tracking_uri(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("PIPELINE_", "MLFLOW_")):
                patch.delenv(name)
        patch.chdir(folder)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        train = ["train", "--subset", "tenth", "--recipe", "small.toml", "--minimum-accuracy", "0.1"]
        assert main([*train, "--state-dir", str(folder)]) == 0
        assert compare(folder, "small", "other") == 0
        yield handler
    logger.removeHandler(handler)
    mlflow.set_tracking_uri(before[0])
    signal.signal(signal.SIGTERM, before[1])


@pytest.fixture
def told(listener: Told) -> list[str]:
    listener.lines.clear()
    return listener.lines


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def compare(folder: Path, *recipes: str, seeds: int = 2, fresh: bool = False) -> int:
    names = [f"{name}.toml" for name in recipes]
    where = ["--subset", "tenth", "--state-dir", str(folder), "--seeds", str(seeds)]
    return main(["compare", *where, *(["--fresh"] if fresh else []), "--recipes", *names])


def parents() -> list[Run]:
    return runs("run_name = 'comparison'")


def children(parent: Run) -> list[Run]:
    return runs(f"tags.mlflow.parentRunId = '{parent.info.run_id}'")


def names(found: list[Run]) -> list[str]:
    return [run.info.run_name for run in found]


def test_runs_are_nested_in_one_and_that_of_train_is_not_repeated(listener: Told) -> None:
    (parent,) = parents()
    assert parent.info.status == "FINISHED"
    assert "1 of 4 runs are already finished (--fresh repeats them): small, seed 1." in listener.lines
    assert [line for line in listener.lines if line.startswith("run ")] == [
        "run 2 of 4: small, seed 2",
        "run 3 of 4: other, seed 1",
        "run 4 of 4: other, seed 2",
    ]
    assert names(children(parent)) == ["small-2 (tenth)", "other-1 (tenth)", "other-2 (tenth)"]
    assert names(runs()) == [
        "dense-1 (tenth)",
        "small-1 (tenth)",
        "comparison",
        "small-2 (tenth)",
        "other-1 (tenth)",
        "other-2 (tenth)",
    ]
    child = children(parent)[1]
    assert child.info.status == "FINISHED"
    assert (child.data.params["recipe"], child.data.params["seed"]) == ("other", "1")


def test_every_run_has_its_report_with_what_its_network_can_show() -> None:
    for name, run in zip(names(runs()), runs(), strict=True):
        if name != "comparison":
            page = artifact(run, "report.html").decode()
            assert f"<h1>{name}: test accuracy {run.data.metrics['test_accuracy']:.2%}</h1>" in page
            assert ('id="filters"' in page) == name.startswith("other")


def test_table_holds_what_the_runs_measured() -> None:
    (parent,) = parents()
    rows = {row["recipe"]: row for row in csv.DictReader(io.StringIO(artifact(parent, "comparison.csv").decode()))}
    assert list(rows) == ["small", "other"]
    for recipe, row in rows.items():
        measured = [run.data.metrics for run in runs(f"tags.recipe = '{recipe}'")]
        assert len(measured) == int(row["seeds"]) == 2
        for column, metric in (
            ("validation_accuracy", "final_validation_accuracy"),
            ("test_accuracy", "test_accuracy"),
        ):
            values = [metrics[metric] for metrics in measured]
            assert float(row[f"{column}_mean"]) == pytest.approx(statistics.mean(values), abs=1e-9)
            assert float(row[f"{column}_sd"]) == pytest.approx(statistics.stdev(values), abs=1e-9)
        for column, metric in (("seconds", "training_seconds"), ("images_per_second", "training_images_per_second")):
            expected = statistics.mean(metrics[metric] for metrics in measured)
            assert float(row[f"{column}_mean"]) == pytest.approx(expected)
    assert (rows["small"]["parameters"], rows["small"]["macs"], rows["small"]["epochs"]) == ("101770", "101632", "2")


def test_seconds_and_rate_of_a_run_are_those_of_its_epochs() -> None:
    for run in runs("tags.recipe = 'small'"):
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "images_per_second")
        seconds = sum(IMAGES / metric.value for metric in history)
        assert run.data.metrics["training_seconds"] == pytest.approx(seconds)
        assert run.data.metrics["training_images_per_second"] == pytest.approx(2 * IMAGES / seconds)


def test_table_is_there_for_people_with_a_picture_and_the_origin_of_each_number() -> None:
    (parent,) = parents()
    caption, _, heading, _, small, other = artifact(parent, "comparison.md").decode().splitlines()
    assert caption.startswith("Mean ± standard deviation over 2 seeds; ")
    assert "the bundled tenth of mnist: expect lower accuracy" in caption
    assert heading.startswith("| recipe | parameters | MACs | epochs | seeds | validation % | test % | seconds |")
    mean = float(next(csv.DictReader(io.StringIO(artifact(parent, "comparison.csv").decode())))["test_accuracy_mean"])
    assert f"| {100 * mean:.2f} ± " in small
    assert other.startswith("| other | ")
    assert Image.open(io.BytesIO(artifact(parent, "pictures/comparison.png"))).width == 1200
    origin = json.loads(artifact(parent, "runs.json"))
    assert origin == {
        f"{run.data.tags['recipe']}, seed {run.data.params['seed']}": run.info.run_id
        for run in [*runs("tags.recipe = 'small'"), *runs("tags.recipe = 'other'")]
    }


def test_description_of_the_comparison_is_its_table_below_the_accuracies() -> None:
    (parent,) = parents()
    means = [
        statistics.mean(run.data.metrics["test_accuracy"] for run in runs(f"tags.recipe = '{recipe}'"))
        for recipe in ("small", "other")
    ]
    first, rest = parent.data.tags["mlflow.note.content"].split("\n\n", 1)
    assert first == f"Test accuracy: small {means[0]:.2%}, other {means[1]:.2%}."
    assert rest == artifact(parent, "comparison.md").decode()


def test_parent_tells_data_device_and_seeds() -> None:
    (parent,) = parents()
    tags = parent.data.tags
    assert (tags["recipes"], parent.data.params["seeds"]) == ("small, other", "2")
    assert (tags["dataset"], tags["subset"]) == ("mnist", "tenth")
    assert tags["device"].split(" ")[0] in ("cpu", "cuda", "mps")
    assert tags["warning"].startswith("Trained on the bundled tenth")
    assert parent.inputs
    assert {entry.tags[0].value for entry in parent.inputs.dataset_inputs} == {"training", "validation"}


def test_finished_comparison_shows_its_table_again_and_trains_nothing(
    folder: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(runs())
    assert compare(folder, "small", "other") == 0
    assert told[-2] == "This comparison is already finished; skipping training (--fresh repeats it)."
    assert told[-1].startswith(f"Runs: `mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db`, then http://")
    assert told[-1].endswith("/runs?workflowType=machine_learning&viewStateShareKey=digits")
    shown = capsys.readouterr().out
    small = artifact(parents()[0], "comparison.md").decode().splitlines()[4].strip("|").split("|")
    assert all(cell.strip() in shown for cell in small)
    assert len(runs()) == before


def test_recipes_that_differ_in_their_names_alone_share_their_runs(folder: Path, told: list[str]) -> None:
    before = len(runs())
    assert compare(folder, "small", "twin") == 0
    assert len(runs()) == before + 1
    assert "2 of 2 runs are already finished (--fresh repeats them): small, seed 1, 2; twin, seed 1, 2." in told
    rows = artifact(parents()[-1], "comparison.csv").decode().splitlines()
    assert rows[1].replace("small", "twin") == rows[2]


def test_stopped_comparison_goes_on_in_the_same_runs(folder: Path, listener: Told, told: list[str]) -> None:
    listener.stop_at = "slow, epoch 2/3"
    assert compare(folder, "small", "slow") == 130
    assert [file.name[:5] for file in (folder / "checkpoints").iterdir()] == ["slow-"]
    parent = parents()[-1]
    (child,) = children(parent)
    assert (parent.info.status, child.info.status) == ("FAILED", "FAILED")
    told.clear()
    assert compare(folder, "small", "slow") == 0
    assert "Resuming the interrupted comparison." in told
    assert "slow resumes from its checkpoint after 2 of 3 epochs." in told
    assert not any(line.startswith("slow, epoch 1/3") for line in told[: told.index("run 4 of 4: slow, seed 2")])
    assert parents()[-1].info.run_id == parent.info.run_id
    assert [(run.info.run_name, run.info.status) for run in children(parent)] == [
        ("slow-1 (tenth)", "FINISHED"),
        ("slow-2 (tenth)", "FINISHED"),
    ]
    assert children(parent)[0].info.run_id == child.info.run_id
    assert children(parent)[0].data.metrics["epochs"] == 3
    assert not list((folder / "checkpoints").iterdir())


def test_run_of_train_that_was_cut_off_is_taken_into_the_comparison(folder: Path, listener: Told) -> None:
    (folder / "cut.toml").write_text(RECIPES["slow"] + "\n[augmentation]\nshift = 1")
    listener.stop_at = "cut, epoch 1/3"
    train = ["train", "--subset", "tenth", "--recipe", "cut.toml", "--state-dir", str(folder)]
    assert main(train) == 130
    assert compare(folder, "cut", seeds=1) == 0
    assert names(children(parents()[-1])) == ["cut-1 (tenth)"]
    assert len(runs("tags.recipe = 'cut'")) == 1


def test_run_that_fails_ends_the_comparison_with_its_name_and_keeps_the_others(folder: Path, told: list[str]) -> None:
    assert compare(folder, "small", "wild") == 1
    assert told[-1].startswith("wild, seed 1: The loss is no longer finite at step ")
    parent = parents()[-1]
    assert parent.info.status == "FAILED"
    assert [(run.info.run_name, run.info.status) for run in children(parent)] == [("wild-1 (tenth)", "FAILED")]


def test_fresh_starts_over(folder: Path) -> None:
    before = parents()
    assert compare(folder, "small", seeds=1, fresh=True) == 0
    assert compare(folder, "small", seeds=1, fresh=True) == 0
    assert len(parents()) == len(before) + 2
    assert all(names(children(parent)) == ["small-1 (tenth)"] for parent in parents()[-2:])


def test_one_seed_has_no_deviation() -> None:
    text = artifact(parents()[-1], "comparison.md").decode()
    assert text.startswith("One seed; ")
    assert "±" not in text


def test_unknown_recipe_is_refused_by_name(folder: Path, told: list[str]) -> None:
    assert main(["compare", "--recipes", "dense", "defualt", "--state-dir", str(folder / "none")]) == 2
    assert "PIPELINE_RECIPES (--recipes) cannot be 'defualt': there is no such recipe; there are: " in told[-1]
    assert not (folder / "none").exists()
