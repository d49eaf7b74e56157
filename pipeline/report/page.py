"""The report of a run: its key numbers and all its pictures with their captions, in one HTML page.

The pictures are embedded: the page loads no script, no other file, and nothing from another host.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.data.dataset import Samples
from pipeline.evaluation import Evaluation
from pipeline.networks import Network, normalise
from pipeline.recipes import Recipe
from pipeline.report.curves import draw_training_curves
from pipeline.report.filters import draw_feature_maps, draw_filters, draw_growth, draw_second_layer
from pipeline.report.mistakes import draw_confusion_matrix, draw_least_sure, draw_misclassified, draw_reliability
from pipeline.report.style import render
from pipeline.tracking.runs import RecordedRun
from pipeline.training.loop import Trained
from pipeline.training.schedule import learning_rates

SEARCHED = 500  # test pictures that are searched for patches with a strong response of the second layer
MOST_CLASSES = 12  # rows of the feature maps
# Heading and explanation of each picture, by file name, in the order of the page.
CAPTIONS = {
    "training-curves": (
        "How it learned",
        "In each epoch the network saw every training picture once. It never learns from the validation pictures: they "
        "show whether it generalises or only memorises.",
    ),
    "filters": (
        "What the first layer looks for",
        "Each filter slides over the picture and responds if the pixels match its weights. Many have become detectors "
        "of an edge or a line in one direction.",
    ),
    "filters-over-epochs": (
        "How these filters grew",
        "Nobody designed the filters. They began as random numbers, and each training step moved them slightly towards "
        "fewer mistakes.",
    ),
    "second-layer-filters": (
        "What the second layer looks for",
        "The input of a second-layer filter is not the picture but the maps of the first layer. The patches with its "
        "strongest responses show what it combines them into: curves, corners, ends of strokes.",
    ),
    "feature-maps": (
        "What the layers see in a picture",
        "A feature map is the response of one filter at every place of the picture. In the first layer the motif is "
        "easy to see. Deeper layers show less of its lines and more of its shapes.",
    ),
    "confusion-matrix": (
        "Which classes it confuses",
        "A row is the true class, a column the prediction. Mistakes gather at pairs of classes that look alike.",
    ),
    "misclassified": (
        "What it got wrong",
        "The misclassified test pictures, the most confident first. People misread some of them too, and a few labels "
        "may be wrong, as they are in MNIST.",
    ),
    "least-sure": (
        "Where it is least sure",
        "The two most likely classes of these pictures are almost equally likely. A service can pass such pictures on "
        "to a person.",
    ),
    "reliability": (
        "Whether its confidence is true",
        "A network that is 80 % sure should be right four times out of five. Calibration divides its scores by one "
        "number, the temperature, which is fitted on the validation pictures.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A picture of a run: the name of its file (see `CAPTIONS`), the titles drawn in it, and the PNG."""

    name: str
    words: str
    png: bytes


def draw(
    recipe: Recipe,
    trained: Trained,
    samples: Samples,
    test: Evaluation,
    temperature: float,
) -> list[Picture]:
    """Draw all pictures of a run; a network without convolutions has none of filters and feature maps.

    Args:
        recipe: by which the network was trained.
        trained: the network and its history.
        samples: the test split.
        test: the network's answers on the test split.
        temperature: calibrates the confidence.
    """
    classes = trained.network.task.classes
    figures = {
        "training-curves": draw_training_curves(trained.epochs, learning_rates(recipe, trained.epochs[-1].step)),
        **_draw_layers(trained.network, trained.growth, samples),
        "confusion-matrix": draw_confusion_matrix(test, classes),
        "misclassified": draw_misclassified(samples, test, temperature, classes),
        "least-sure": draw_least_sure(samples, test, temperature, classes),
        "reliability": draw_reliability(test, temperature),
    }
    return [
        Picture(name, ". ".join(text.get_text() for text in figures[name].texts), render(figures[name]))
        for name in CAPTIONS
        if name in figures
    ]


def _draw_layers(network: Network, growth: Mapping[int, Tensor], samples: Samples) -> dict[str, Figure]:
    labels = samples.labels
    one_of_each = samples.images[[int((labels == label).nonzero()[0]) for label in labels.unique()[:MOST_CLASSES]]]
    with torch.inference_mode():
        _, maps = network.examine(normalise(one_of_each, network.task))
    if not maps:
        return {}
    weights = [convolution.get_parameter("weight").detach() for convolution in network.convolutions]
    figures = {
        "filters": draw_filters(weights[0]),
        "filters-over-epochs": draw_growth(growth),
        "feature-maps": draw_feature_maps(one_of_each, maps),
    }
    if len(maps) > 1:
        few = samples.images[:SEARCHED]
        with torch.inference_mode():
            _, answers = network.examine(normalise(few, network.task))
        figures["second-layer-filters"] = draw_second_layer(weights[0], weights[1], few, answers[1])
    return figures


def describe(run: RecordedRun) -> dict[str, str]:
    """A run's key numbers by name, from its parameters, metrics and tags; those it lacks are left out."""
    numbers, tags = run.metrics, run.tags
    rows = {
        "Test accuracy": _format(numbers, "test_accuracy", "{:.2%}"),
        "Validation accuracy": _format(numbers, "final_validation_accuracy", "{:.2%}"),
        "More than the dense network": _format(numbers, "test_accuracy_over_dense", "{:+.2%} of the test pictures"),
        "Loss on the test pictures": _format(numbers, "test_loss", "{:.4f} nats"),
        "Temperature": _format(numbers, "temperature", "{:.3f}"),
        "Calibration error": _format(numbers, "test_calibration_error", "{:.4f}"),
        "Calibration error before": _format(numbers, "test_calibration_error_before", "{:.4f}"),
        "Parameters": _format(numbers, "parameters", "{:,.0f}"),
        "Operations per picture (MACs)": _format(numbers, "macs", "{:,.0f}"),
        "Epochs": _format(numbers, "epochs", "{:.0f}"),
        "Training time": _format(numbers, "training_seconds", "{:,.0f} s"),
        "Pictures a second": _format(numbers, "training_images_per_second", "{:,.0f}"),
        "Seed": run.parameters.get("seed", ""),
        "Data": ", ".join(filter(None, map(tags.get, ("dataset", "subset", "data_source")))),
        "Device": tags.get("device", ""),
        "Commit": tags.get("git_commit", ""),
        "Run": run.id,
    }
    return {name: value for name, value in rows.items() if value}


def _format(numbers: Mapping[str, float], name: str, how: str) -> str:
    return how.format(numbers[name]) if name in numbers else ""


def write(title: str, about: str, warning: str, numbers: Mapping[str, str], pictures: Sequence[Picture]) -> str:
    """Write the page as HTML, with the pictures embedded.

    Args:
        title: the heading.
        about: a sentence below the heading; may be empty.
        warning: shown above the numbers; may be empty.
        numbers: the rows of the table, by name.
        pictures: in the order of the page.
    """
    rows = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in numbers.items()]
    return PAGE.substitute(
        title=escape(title),
        about=f"<p>{escape(about)}</p>\n" if about else "",
        warning=f'<p class="warning">{escape(warning)}</p>\n' if warning else "",
        rows="\n".join(rows),
        pictures="\n".join(map(_write_picture, pictures)),
    )


def _write_picture(picture: Picture) -> str:
    heading, sentence = CAPTIONS[picture.name]
    data = b64encode(picture.png).decode()
    return f"""<h2 id="{picture.name}">{escape(heading)}</h2>
<p>{escape(sentence)}</p>
<div class="picture" tabindex="0" role="group" aria-labelledby="{picture.name}">
<img src="data:image/png;base64,{data}" alt="{escape(picture.words)}">
</div>"""


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #595959; --paper: #fff; --line: #ddd; --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --quiet: #b0b0b0; --paper: #16181a; --line: #3a3d40; --mark: #56b4e9; }
}
body { margin: 0 auto; padding: 1rem; max-width: 75rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0.5rem 0 0; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 0; font-size: 1.25rem; }
p { margin: 0.4rem 0 0.8rem; max-width: 46rem; }
.warning { border-left: 4px solid #d55e00; padding-left: 0.7rem; }
table { width: 100%; max-width: 46rem; border-collapse: collapse; }
th, td { padding: 0.3rem 0.5rem 0.3rem 0; border-bottom: 1px solid var(--line); text-align: left; }
th { width: 45%; color: var(--quiet); font-weight: normal; vertical-align: top; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
tr:first-child td { font-size: 1.3rem; font-weight: bold; }
/* A picture stays large enough to be read: on a phone it scrolls sideways within its frame. */
.picture { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
.picture:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
img { display: block; width: 100%; min-width: 45rem; height: auto; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$about$warning<table aria-label="The run in numbers">
$rows
</table>
$pictures
</main>
</body>
</html>
""")
