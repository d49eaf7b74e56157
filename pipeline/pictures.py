"""Pictures of a run: what the network learned, how, and where it is wrong.

One style for all: 1,200 pixels wide, colours that colour-blind readers tell apart (Okabe & Ito, 2008), and a title
that says what to see.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation import Evaluation
from pipeline.labels import name_points
from pipeline.table import Row
from pipeline.training import Epoch

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", GREY)
MARKERS = "osD^"
LEAST_ERROR = 5e-5  # share: half a digit of 10,000, to have a place on a logarithmic axis
WIDTH, DPI = 10.0, 120  # inches, and dots an inch: 1,200 pixels
STYLE: dict[Any, Any] = {  # of all figures: nothing else here draws
    "axes.edgecolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": DPI,
    "font.size": 11,
    "savefig.dpi": DPI,
}
mpl.rcParams.update(STYLE)


def draw_filters(weights: Tensor) -> Figure:
    """The first layer's filters as the chapter's grid, eight in a row, the strongest first, on one scale.

    Args:
        weights: float32 [filters, 1, height, width].
    """
    kernels = weights.squeeze(1).numpy()
    strongest = np.argsort(-np.linalg.norm(kernels, axis=(1, 2)), kind="stable")
    reach = float(np.abs(kernels).max())
    rows = -(-len(kernels) // 8)
    figure, grid = _figure(
        1.3 * rows + 0.9,
        rows,
        8,
        f"What the first layer looks for: its {len(kernels)} filters, the strongest first",
        "Ink on orange speaks for a match, ink on purple against it: look for edges, lines and their directions.",
    )
    for axes, filter in zip(grid, strongest, strict=False):
        image = axes.imshow(kernels[filter], cmap="PuOr_r", vmin=-reach, vmax=reach)
        axes.set_title(f"filter {filter}", fontsize=9, loc="center")
    figure.colorbar(image, ax=grid, shrink=0.8, label="weight")
    return figure


def draw_feature_maps(digit: Tensor, label: int, maps: Tensor) -> Figure:
    """A digit beside eight of its first-layer feature maps, those that answer most.

    Args:
        digit: uint8 [28, 28].
        label: what it is.
        maps: float32 [channels, 28, 28], after the ReLU.
    """
    strongest = maps.sum(dim=(1, 2)).argsort(descending=True)[:8].sort().values
    figure = _blank(
        4.6,
        f"What the first layer sees in a {label}: eight of its {len(maps)} feature maps",
        "Bright where the filter finds what it looks for: each map keeps some edges and drops others.",
    )
    panels = figure.subplot_mosaic(
        [["digit", "digit", *(f"{k}" for k in range(4))], ["digit", "digit", *(f"{k}" for k in range(4, 8))]]
    )
    panels["digit"].imshow(digit.numpy(), cmap="gray")
    panels["digit"].set_title("the digit")
    brightest = float(maps[strongest].max())
    for k, channel in enumerate(strongest.tolist()):
        panels[f"{k}"].imshow(maps[channel].numpy(), cmap="magma", vmin=0, vmax=brightest)
        panels[f"{k}"].set_title(f"filter {channel}", fontsize=9)
    for axes in panels.values():
        axes.set_axis_off()
    return figure


def draw_training_curves(epochs: Sequence[Epoch]) -> Figure:
    """Loss and validation accuracy over the epochs."""
    figure, (left, right) = _figure(
        4.6,
        1,
        2,
        f"How it learned: {epochs[-1].validation_accuracy:.2%} of the validation digits right after "
        f"{len(epochs)} epochs",
        "Training loss includes augmentation and label smoothing, so it may lie above validation loss.",
    )
    numbers = [epoch.number for epoch in epochs]
    left.plot(numbers, [epoch.train_loss for epoch in epochs], color=BLUE, marker="o", label="training")
    left.plot(numbers, [epoch.validation_loss for epoch in epochs], color=ORANGE, marker="s", label="validation")
    left.set(title="Loss (cross-entropy, nats)", xlabel="epoch", ylim=(0, None))
    left.legend(frameon=False)
    error = [max(1 - epoch.validation_accuracy, 1e-4) for epoch in epochs]
    right.plot(numbers, [100 * share for share in error], color=ORANGE, marker="s")
    right.set(title="Validation digits misread (%)", xlabel="epoch", yscale="log")
    right.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    right.yaxis.set_minor_formatter(mpl.ticker.FormatStrFormatter("%g"))
    for axes in (left, right):
        axes.set_axis_on()
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    return figure


def draw_confusion_matrix(test: Evaluation) -> Figure:
    """Which test digit was taken for which, with counts."""
    counts = test.confusion().numpy()
    wrong = int(counts.sum() - np.trace(counts))
    figure, (axes,) = _figure(
        8.6,
        1,
        1,
        f"Which digit is taken for which: {wrong:,} of {counts.sum():,} test digits misread",
        "Off the diagonal every count is a mistake; the darkest cells are the pairs that look alike.",
    )
    shown = np.where(np.eye(10, dtype=bool) | (counts == 0), np.nan, counts)
    if wrong:
        axes.imshow(shown, cmap="Blues", norm=LogNorm(vmin=0.5, vmax=max(2.0, 2 * float(np.nanmax(shown)))))
    else:
        axes.imshow(np.full((10, 10), np.nan), cmap="Blues")
    for row in range(10):
        for column in range(10):
            if counts[row, column]:
                axes.text(
                    column, row, f"{counts[row, column]}", ha="center", va="center",
                    color=GREY if row == column else "black", fontweight="normal" if row == column else "bold",
                )  # fmt: skip
    axes.set_axis_on()
    axes.set(xticks=range(10), yticks=range(10), xlabel="answer", ylabel="what it is")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def draw_comparison(rows: Sequence[Row], caption: str) -> Figure:
    """Test accuracy against parameters and against training time: a point a recipe, with its standard deviation.

    Accuracy has a logarithmic scale of the error: from 99 to 99.9 % is as far as from 90 to 99 %.

    Args:
        rows: of the table, one a recipe.
        caption: what the numbers are, in a sentence.
    """
    best = max(rows, key=lambda row: row.test_accuracy_mean)
    figure, panels = _figure(
        6.4,
        1,
        2,
        f"The most accurate is {best.recipe}: {100 * best.test_accuracy_mean:.2f} % of the test digits, with "
        f"{best.parameters:,} parameters",
        caption,
    )
    errors = np.maximum([1 - row.test_accuracy_mean for row in rows], LEAST_ERROR)
    deviations = np.array([row.test_accuracy_sd or 0.0 for row in rows])
    ends = np.stack([np.maximum(errors - deviations, LEAST_ERROR), errors + deviations])
    across = [np.array([float(row.parameters) for row in rows]), np.array([row.seconds_mean for row in rows])]
    for axes, label, sizes in zip(
        panels, ("parameters (fewer is better)", "seconds of training (fewer is better)"), across, strict=True
    ):
        axes.set_axis_on()
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.set(title="Test digits read right (%)", xlabel=label, xscale="log", yscale="log")
        axes.set_axisbelow(True)
        axes.set(xlim=_stretch(axes.xaxis, sizes), ylim=_stretch(axes.yaxis, np.stack([errors, *ends]))[::-1])
        axes.xaxis.set_major_formatter(lambda size, _: f"{size:,.10g}")
        axes.yaxis.set_major_formatter(lambda error, _: f"{100 * (1 - error):.6g}")
        for k, (size, error) in enumerate(zip(sizes, errors, strict=True)):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k // len(COLOURS) % len(MARKERS)]
            axes.errorbar(size, error, abs(ends[:, [k]] - error), color=colour, marker=marker, markersize=8, capsize=3)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # from here on it is known where everything lies
    for axes, sizes in zip(panels, across, strict=True):
        marks = np.stack([np.stack([sizes, heights], axis=1) for heights in (errors, *ends)], axis=1)
        name_points(axes, [row.recipe for row in rows], marks)
    return figure


def _stretch(axis: Axis, values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits of a logarithmic axis that leave room for names; its ticks are set to suit them."""
    ratio = float(values.max() / values.min())
    room = max(1.2 * ratio**0.1, (2 / ratio) ** 0.5)
    axis.set(
        major_locator=LogLocator(subs=(1, 2, 5)) if ratio > 4 else MaxNLocator(4, steps=[1, 2, 5, 10]),
        minor_locator=NullLocator(),
    )
    return float(values.min()) / room, float(values.max()) * room


def _blank(height: float, title: str, what_to_see: str) -> Figure:
    below_titles = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.85 / height))
    figure = Figure(figsize=(WIDTH, height), layout=below_titles)
    figure.text(0.01, 1 - 0.12 / height, title, va="top", fontsize=14, fontweight="bold")
    figure.text(0.01, 1 - 0.48 / height, what_to_see, va="top", color=GREY)
    return figure


def _figure(height: float, rows: int, columns: int, title: str, what_to_see: str) -> tuple[Figure, list[Axes]]:
    figure = _blank(height, title, what_to_see)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, list(grid.flat)
