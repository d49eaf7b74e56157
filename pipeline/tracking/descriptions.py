"""Descriptions on MLflow's pages, in Markdown, and the table of runs that shows the accuracy of each."""

import json
import os
import re
from collections.abc import Mapping

import mlflow

from pipeline.tracking.location import EXPERIMENT

NOTE = "mlflow.note.content"  # MLflow shows this tag of an experiment or a run as its description
MODE = "workflowType=machine_learning"  # MLflow's pages open in their GenAI mode otherwise
VIEW = "digits"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # MLflow's page reads it if the address ends in viewStateShareKey=digits
MOST_CLASSES = 50  # in a description
# Columns of the table, in order, and their widths in pixels. MLflow adds the name and the time of creation itself.
COLUMNS = {
    "metrics.`test_accuracy`": 115,
    "metrics.`final_validation_accuracy`": 185,
    "metrics.`parameters`": 100,
    "metrics.`training_seconds`": 130,
    "params.`recipe`": 95,
    "params.`seed`": 60,
    "tags.`dataset`": 90,
    "tags.`subset`": 70,
    "attributes.`Description`": 300,
}

# One line on the page. Each further line is hidden until the description is opened.
EXPERIMENT_NOTE = (
    "Training runs; each has a description, and a report under *Artifacts*. "
    f"Exported networks: [registered models](#/models?{MODE})."
)


def describe_experiment() -> str:
    """Set the experiment's description, unless it has one, and the columns of its table.

    Returns:
        How to open the table of runs: an address, preceded by a command if MLflow's embedded store is used.
    """
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment
    if NOTE not in experiment.tags:
        mlflow.set_experiment_tag(NOTE, EXPERIMENT_NOTE)
    view = json.dumps({"selectedColumns": list(COLUMNS), "columnOrder": list(COLUMNS), "columnWidths": COLUMNS})
    if experiment.tags.get(VIEW_TAG) != view:
        mlflow.set_experiment_tag(VIEW_TAG, view)
    page = f"#/experiments/{experiment.experiment_id}/runs?{MODE}&viewStateShareKey={VIEW}"
    uri = re.sub(r"//[^/@]*@", "//", mlflow.get_tracking_uri())  # without a password
    if not uri.startswith("http"):
        return f"`mlflow ui --backend-store-uri {uri}`, then http://localhost:5000/{page}"
    return f"{(os.environ.get('MLFLOW_PUBLIC_URL') or uri).rstrip('/')}/{page}"


def describe_model(metadata: Mapping[str, str]) -> str:
    """A registered model's description, from the metadata of its first file."""
    classes = json.loads(metadata["classes"])
    sizes = [metadata["height"], metadata["width"], *(["3"] if metadata["channels"] == "3" else [])]
    shown = classes if len(classes) <= MOST_CLASSES else [*classes[: MOST_CLASSES - 1], "…"]
    return _paragraphs(
        f"Classifies pictures as in the data set {metadata['dataset']}. Input: images of {'x'.join(sizes)} pixels. "
        f"Output: the probability of each of {len(classes)} classes, and the feature maps.",
        f"Classes: {', '.join(shown)}.",
        "The alias `champion` marks the version that is served, and `previous` the champion before it. A new version "
        "becomes champion if it reaches the minimum accuracy and is not worse than the champion.",
    )


def describe_run(about: str, metrics: Mapping[str, float], tags: Mapping[str, str], report: str) -> str:
    """A run's description: key numbers, the purpose of the recipe, and a link to the report.

    Args:
        about: the recipe's sentence about itself; may be empty.
        metrics: of the run, by name.
        tags: of the run, by name.
        report: the address of the report.
    """
    accuracy = f"Test accuracy {metrics['test_accuracy']:.2%}, validation {metrics['final_validation_accuracy']:.2%}"
    if "test_accuracy_over_dense" in metrics:
        accuracy += f", {100 * metrics['test_accuracy_over_dense']:+.2f} points against the dense network"
    size = f"{metrics['parameters']:,.0f} parameters, {metrics['epochs']:.0f} epochs"
    training = f"{metrics['training_seconds']:,.0f} s of training on {tags['device']}"
    numbers = f"{size}, {training}. Data: {_data(tags)} ({tags['data_source']})."
    # The link comes early, because MLflow's page cuts a description after a few lines.
    return _paragraphs(f"{accuracy}. [Report with pictures]({report})", about, numbers, tags.get("warning", ""))


def describe_version(tags: Mapping[str, str]) -> str:
    """A version's description, from its tags: accuracies, recipe, data and, if it was judged, the verdict."""
    accuracies = [
        f"{name} {float(tags[tag]):.2%}"
        for name, tag in (("test accuracy", "test_accuracy"), ("validation", "validation_accuracy"))
        if tag in tags
    ]
    facts = ", ".join([*accuracies, f"recipe {tags.get('recipe', 'unknown')}", f"data {_data(tags)}"])
    verdict = ""
    if "verdict" in tags:
        verdict = f"{'Promoted' if tags.get('promoted') == 'true' else 'Not promoted'}: {tags['verdict']}."
    return _paragraphs(f"{facts[0].upper()}{facts[1:]}.", verdict)


def _data(tags: Mapping[str, str]) -> str:
    """The data set, and what part of it; earlier releases had MNIST alone, and called the part `data`."""
    subset = tags.get("subset") or tags.get("data", "unknown")
    return tags.get("dataset", "mnist") + ("" if subset == "full" else f" ({subset})")


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))
