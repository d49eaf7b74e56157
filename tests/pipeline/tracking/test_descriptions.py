"""The texts of descriptions; tests/pipeline/test_flow.py reads them back from a real MLflow server."""

import mlflow
import pytest

from pipeline.tracking import descriptions, registry
from pipeline.tracking.registry import Version

METRICS = {
    "test_accuracy": 0.98724,
    "final_validation_accuracy": 0.9861,
    "parameters": 421_642.0,
    "epochs": 5.0,
    "training_seconds": 1234.5,
}
TAGS = {"device": "cpu (2 threads)", "dataset": "mnist", "subset": "full", "data_source": "/mnist"}
TENTH = {"recipe": "quick", "data": "tenth", "test_accuracy": "0.9712", "validation_accuracy": "0.969"}
PROMOTED = {"promoted": "true", "verdict": "there was no champion"}


def test_run_description_leads_with_accuracy_and_report() -> None:
    metrics = METRICS | {"test_accuracy_over_dense": 0.0132}
    assert descriptions.describe_run("For a test.", metrics, TAGS | {"warning": "Careful."}, "#/there").split(
        "\n\n"
    ) == [
        "Test accuracy 98.72%, validation 98.61%, +1.32 points against the dense network. "
        "[Report with pictures](#/there)",
        "For a test.",
        "421,642 parameters, 5 epochs, 1,234 s of training on cpu (2 threads). Data: mnist (/mnist).",
        "Careful.",
    ]


def test_run_description_leaves_out_what_the_run_lacks() -> None:
    text = descriptions.describe_run("", METRICS, TAGS, "#/there")
    assert len(text.split("\n\n")) == 2
    assert text.startswith("Test accuracy 98.72%, validation 98.61%. [Report")


def test_version_description_ends_with_the_verdict() -> None:
    facts = "Test accuracy 97.12%, validation 96.90%, recipe quick, data mnist (tenth)."
    assert descriptions.describe_version(TENTH) == facts
    assert descriptions.describe_version(TENTH | PROMOTED) == f"{facts}\n\nPromoted: there was no champion."
    refused = {"promoted": "false", "verdict": "it is worse"}
    assert descriptions.describe_version(TENTH | refused) == f"{facts}\n\nNot promoted: it is worse."


def test_version_of_an_older_registry_needs_no_tags() -> None:
    assert descriptions.describe_version({}) == "Recipe unknown, data mnist (unknown)."


@pytest.mark.parametrize(
    ("present", "kept"),
    [("", False), (descriptions.describe_version(TENTH), False), ("Best of the spring.", True)],
)
def test_only_descriptions_of_the_pipeline_are_replaced(
    present: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str, str]] = []

    class Client:
        def update_model_version(self, model: str, number: str, text: str) -> None:
            written.append((model, number, text))

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    registry.describe(Version(3, "0" * 32, TENTH, present), TENTH | PROMOTED)
    assert written == ([] if kept else [("digits", "3", descriptions.describe_version(TENTH | PROMOTED))])
