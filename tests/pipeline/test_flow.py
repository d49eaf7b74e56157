"""The commands end to end, against a real MLflow server."""

import io
import json
import logging
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline import export
from pipeline.__main__ import main
from pipeline.data.dataset import DataSet, Samples
from pipeline.recipes import RECIPES
from pipeline.report import illustrations
from pipeline.report import page as report
from pipeline.tracking import descriptions, registry
from pipeline.training import fingerprint as provenance
from tests.pipeline.recorded import artifact, experiment, runs
from tests.trained import QUICK

pytestmark = pytest.mark.slow

TRAIN = ["train", "--subset", "tenth", "--recipe", "quick", "--minimum-accuracy", "0.93"]


@pytest.fixture(scope="module")
def told() -> list[str]:
    """Log lines of the commands in this module, in order."""
    return []


@pytest.fixture(scope="module", autouse=True)
def trained(mlflow_url: str, tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Iterator[None]:
    """One training in an empty registry; the tests below look at it, in their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, QUICK.name, QUICK)
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
        patch.setenv("PIPELINE_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        handler = logging.Handler()
        handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("pipeline").addHandler(handler)
        logging.getLogger("pipeline").setLevel(logging.INFO)
        assert main(TRAIN) == 0
        yield
        logging.getLogger("pipeline").removeHandler(handler)


@pytest.fixture(autouse=True)
def connected(
    monkeypatch: pytest.MonkeyPatch, _own_environment: None, mlflow_url: str, tmp_path: Path, told: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path))
    mlflow.set_tracking_uri(mlflow_url)
    told.clear()


def champion() -> str:
    version = registry.by_alias("champion")
    assert version is not None
    return str(version.number)


def test_dense_network_was_trained_first_and_the_gain_is_told() -> None:
    dense, quick = runs()
    assert (dense.data.tags["recipe"], quick.data.tags["recipe"]) == ("dense", "quick")
    gain = quick.data.metrics["test_accuracy"] - dense.data.metrics["test_accuracy"]
    assert quick.data.metrics["test_accuracy_over_dense"] == pytest.approx(gain)
    assert gain > 0


def test_run_tells_parameters_metrics_and_tags(tenth: DataSet) -> None:
    run = runs()[1]
    assert run.info.status == "FINISHED"
    parameters, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    assert (parameters["seed"], parameters["recipe"], parameters["recipe.batch_size"]) == ("1", "quick", "64")
    assert parameters["recipe.augmentation.rotation"] == "0.0"
    assert metrics["parameters"] == 421_642
    assert 0.9 < metrics["test_accuracy"] <= 1
    assert metrics["test_calibration_error"] < 0.05
    assert tags["data_digest"] == tenth.digest
    assert tags["warning"].startswith("Trained on the bundled tenth")
    assert tags["git_commit"] == provenance.git_commit()
    assert tags["device"].split(" ")[0] in ("cpu", "cuda", "mps")
    assert tags["version.torch"] == provenance.versions()["torch"]


def test_metrics_of_epochs_and_steps_are_kept() -> None:
    client, run_id = mlflow.MlflowClient(), runs()[1].info.run_id
    for name in ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "images_per_second"):
        assert [metric.step for metric in client.get_metric_history(run_id, name)] == [1, 2, 3, 4, 5], name
    assert [metric.step for metric in client.get_metric_history(run_id, "step_loss")] == list(range(50, 431, 50))


def test_data_set_is_an_input_with_its_digest(tenth: DataSet) -> None:
    run = runs()[1]
    assert run.inputs
    inputs = run.inputs.dataset_inputs
    assert {entry.tags[0].value for entry in inputs} == {"training", "validation"}
    assert all(tenth.digest.startswith(entry.dataset.digest) for entry in inputs)


def test_pictures_report_and_console_log_are_artifacts() -> None:
    run = runs()[1]
    page = artifact(run, "report.html").decode()
    for name in report.CAPTIONS:
        picture = artifact(run, f"pictures/{name}.png")
        assert Image.open(io.BytesIO(picture)).width == 1200
        assert b64encode(picture).decode() in page, name
    for value in (
        f"<h1>quick-1 (tenth): test accuracy {run.data.metrics['test_accuracy']:.2%}</h1>",
        f"<td>{run.data.metrics['test_accuracy_over_dense']:+.2%} of the test pictures</td>",
        f"<td>{run.info.run_id}</td>",
        '<p class="warning">Trained on the bundled tenth',
    ):
        assert value in page, value
    console = artifact(run, "console.log").decode()
    assert "quick, epoch 5/5: loss" in console
    assert re.search(r"9 pictures and report.html, \d\.\d MB, drawn and logged in \d+\.\d s\.", console)
    assert "Exporting to ONNX" in console


def test_descriptions_of_experiment_run_model_and_version_hold_the_key_facts() -> None:
    dense, quick = runs()
    metrics = quick.data.metrics
    note = quick.data.tags["mlflow.note.content"]
    gain = 100 * metrics["test_accuracy_over_dense"]
    assert note.startswith(
        f"Test accuracy {metrics['test_accuracy']:.2%}, validation {metrics['final_validation_accuracy']:.2%}, "
        f"{gain:+.2f} points against the dense network. [Report with pictures](#/experiments/"
        f"{quick.info.experiment_id}/runs/{quick.info.run_id}/artifacts/report.html?workflowType=machine_learning)"
        f"\n\n{QUICK.about}\n\n421,642 parameters, 5 epochs, "
    )
    assert "Data: mnist (tenth) (" in note
    assert "Trained on the bundled tenth" in note
    assert dense.data.tags["mlflow.note.content"].startswith("Test accuracy 9")
    assert "points" not in dense.data.tags["mlflow.note.content"].splitlines()[0]
    assert "report" in experiment().tags["mlflow.note.content"]
    assert "`champion`" in mlflow.MlflowClient().get_registered_model("digits").description
    assert registry.get(1).description == (
        f"Test accuracy {metrics['test_accuracy']:.2%}, validation {metrics['final_validation_accuracy']:.2%}, "
        f"recipe quick, data mnist (tenth).\n\nPromoted: {registry.get(1).tags['verdict']}."
    )


def test_table_of_runs_has_columns_that_every_run_fills() -> None:
    view = json.loads(experiment().tags["mlflow.sharedViewState.digits"])
    assert view["selectedColumns"][0] == "metrics.`test_accuracy`"
    assert view["selectedColumns"] == view["columnOrder"] == list(view["columnWidths"])
    for run in runs():
        for column in view["selectedColumns"]:
            kind, name = column.replace("`", "").split(".", 1)
            data = run.data
            kept: dict[str, set[str]] = {"metrics": {*data.metrics}, "params": {*data.params}, "tags": {*data.tags}}
            assert kind == "attributes" or name in kept[kind], column


def test_address_of_the_table_is_the_public_one(
    mlflow_url: str, monkeypatch: pytest.MonkeyPatch, connected: None
) -> None:
    number = experiment().experiment_id
    page = f"#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=digits"
    assert descriptions.describe_experiment() == f"{mlflow_url}/{page}"
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", "http://localhost:5001/")
    assert descriptions.describe_experiment() == f"http://localhost:5001/{page}"


def test_pictures_of_the_docs_are_those_of_the_champions_run(tmp_path: Path) -> None:
    illustrations.main(tmp_path)
    for name in illustrations.OF_A_RUN:
        assert (tmp_path / f"{name}.png").read_bytes() == artifact(runs()[1], f"pictures/{name}.png")
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {*illustrations.LESSON, *illustrations.OF_A_RUN}


def test_model_has_signature_and_example_and_is_champion() -> None:
    version = registry.get(1)
    assert champion() == "1"
    assert version.tags["promoted"] == "true"
    assert version.tags["verdict"].endswith("and there was no champion")
    info = mlflow.models.get_model_info("models:/digits@champion")
    assert info.signature.inputs.input_names() == ["images"]
    assert info.signature.outputs.input_names() == ["probabilities", "conv1", "conv2"]
    assert info.saved_input_example_info is not None


def test_registered_file_answers_as_pytorch_did(tenth: DataSet, tmp_path: Path) -> None:
    file = registry.download(registry.get(1), tmp_path)
    expected = np.load(io.BytesIO(artifact(runs()[1], "predictions/test.npz")))
    answers = export.predict(file, tenth.read_test())
    np.testing.assert_allclose(answers, expected["probabilities"], atol=1e-4)
    np.testing.assert_array_equal(answers.argmax(1), expected["probabilities"].argmax(1))
    np.testing.assert_array_equal(expected["labels"], tenth.read_test().labels.numpy())
    assert [path.name for path in file.parent.iterdir() if "onnx" in path.name] == ["model.onnx"]


def test_same_settings_data_and_code_are_not_trained_again(told: list[str]) -> None:
    client = mlflow.MlflowClient()
    number = experiment().experiment_id
    client.set_experiment_tag(number, "mlflow.note.content", "Ours.")
    client.update_registered_model("digits", "Ours too.")
    assert main(TRAIN) == 0
    expected = "Version 1 already matches these settings, data and code; skipping training (--fresh repeats it)."
    assert told[-3] == expected
    assert told[-2] == f"Runs: {descriptions.describe_experiment()}"
    assert told[-1].startswith("Champion: version 1 of digits (quick, ")
    assert len(runs()) == 2


def test_export_writes_the_champion(tmp_path: Path, told: list[str], tenth: DataSet) -> None:
    target = tmp_path / "some" / "model.onnx"
    assert main(["export", "--to", str(target)]) == 0
    assert told[-1].startswith(f"Version 1 is in {target} (")
    assert onnx.load(target).graph.input[0].name == "images"
    few = Samples(tenth.validation.images[:10], tenth.validation.labels[:10])
    assert export.predict(target, few).shape == (10, 10)


def test_export_to_the_standard_output_is_the_file_alone(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    target = tmp_path / "model.onnx"
    assert main(["export", "--to", str(target)]) == main(["export", "--to", "-"]) == 0
    assert capfdbinary.readouterr().out == target.read_bytes()


def test_worse_version_is_refused_and_the_champion_stays(told: list[str]) -> None:
    assert main(["train", "--subset", "tenth", "--recipe", "dense", "--minimum-accuracy", "0.8"]) == 0
    assert any("Version 2 is not promoted: it is worse than the champion" in line for line in told)
    assert "Not promoted: it is worse than the champion" in registry.get(2).description
    assert told[-1].startswith("Champion: version 1")
    assert (champion(), registry.get(2).tags["promoted"]) == ("1", "false")


def test_fresh_trains_again_and_rollback_goes_back_and_forth(told: list[str]) -> None:
    before = len(runs())
    assert main([*TRAIN, "--fresh"]) == 0
    assert len(runs()) == before + 1
    assert experiment().tags["mlflow.note.content"] == "Ours."
    assert mlflow.MlflowClient().get_registered_model("digits").description == "Ours too."
    assert champion() == "3"  # the same weights lose no digit
    assert "(0 won, 0 lost" in registry.get(3).tags["verdict"]
    for expected in ("1", "3", "1"):
        assert main(["rollback"]) == 0
        assert champion() == expected
    assert told[-1] == "Version 1 is champion again; version 3 is previous."


def test_promote_judges_the_version_that_is_named(told: list[str]) -> None:
    gate = ["--subset", "tenth", "--minimum-accuracy", "0.8"]
    assert main(["promote", "--version", "2", *gate]) == 1
    assert told[-1] == "Version 2 did not pass the gate."
    mlflow.MlflowClient().update_model_version("digits", "3", "A description of the user.")
    assert main(["promote", "--version", "3", *gate]) == 0
    assert registry.get(3).description == "A description of the user."
    assert champion() == "3"
    assert main(["promote", "--version", "99", *gate]) == 1
    assert told[-1] == "digits has no version 99; there are: 1, 2, 3."


def test_a_promotion_that_was_cut_off_is_judged_again(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MlflowException("away")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_model_version_tag", fail)
        assert main([*TRAIN, "--fresh"]) == 1
    assert told[-1] == "MLflow failed: away"
    assert "verdict" not in registry.get(4).tags
    before = len(runs())
    assert main(TRAIN) == 0
    assert len(runs()) == before
    assert champion() == "4"
    previous = registry.by_alias("previous")
    assert previous and previous.number == 3
    assert registry.get(4).description.endswith(f"\n\nPromoted: {registry.get(4).tags['verdict']}.")
    # against the one before it, not against itself, nor as if there had been none
    assert registry.get(4).tags["verdict"].startswith("it does not lose to the champion: ")


def test_status_lists_the_versions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["status"]) == 0
    told = capsys.readouterr().out
    assert "champion" in told
    assert "previous" in told
    assert "it is worse than the champion" in told
