"""The picture of a comparison: accuracy against size and training time, one point per recipe."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.experiments.table import Row
from pipeline.report.style import COLOURS, MARKERS, panels

LEAST_ERROR = 5e-5  # share: half a digit of 10,000; zero has no place on a logarithmic axis


def draw_comparison(rows: Sequence[Row], caption: str) -> Figure:
    """Draw test accuracy against parameters and against training time, with standard deviations.

    The scale of accuracy is logarithmic in the error: from 99 to 99.9 % is as far as from 90 to 99 %.

    Args:
        rows: of the table, one per recipe.
        caption: what the numbers are, in one sentence.
    """
    best = max(rows, key=lambda row: row.test_accuracy_mean)
    figure, both = panels(
        6.6,
        1,
        2,
        f"Most accurate recipe: {best.recipe}, {100 * best.test_accuracy_mean:.2f} % of the test pictures, "
        f"{best.parameters:,} parameters",
        caption,
    )
    errors = np.maximum([1 - row.test_accuracy_mean for row in rows], LEAST_ERROR)
    deviations = np.array([row.test_accuracy_sd or 0.0 for row in rows])
    ends = np.stack([np.maximum(errors - deviations, LEAST_ERROR), errors + deviations])
    across = [np.array([float(row.parameters) for row in rows]), np.array([row.seconds_mean for row in rows])]
    for axes, label, sizes in zip(
        both, ("parameters (fewer is better)", "training time in seconds (less is better)"), across, strict=True
    ):
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.set(title="Test accuracy (%)", xlabel=label, xscale="log", yscale="log")
        axes.set_axisbelow(True)
        axes.set(xlim=_stretch(axes.xaxis, sizes), ylim=_stretch(axes.yaxis, np.stack([errors, *ends]))[::-1])
        axes.xaxis.set_major_formatter(lambda size, _: f"{size:,.10g}")
        axes.yaxis.set_major_formatter(lambda error, _: f"{100 * (1 - error):.6g}")
        for k, (row, size, error) in enumerate(zip(rows, sizes, errors, strict=True)):
            axes.errorbar(
                size, error, abs(ends[:, [k]] - error), label=row.recipe, linestyle="none", markersize=9, capsize=3,
                color=COLOURS[k % len(COLOURS)], marker=MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
            )  # fmt: skip
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _stretch(axis: Axis, values: NDArray[np.float64]) -> tuple[float, float]:
    """Return limits of a logarithmic axis with a margin, and set its ticks to suit them."""
    ratio = float(values.max() / values.min())
    margin = max(1.2 * ratio**0.1, (2 / ratio) ** 0.5)
    axis.set(
        major_locator=LogLocator(subs=(1, 2, 5)) if ratio > 4 else MaxNLocator(4, steps=[1, 2, 5, 10]),
        minor_locator=NullLocator(),
    )
    return float(values.min()) / margin, float(values.max()) * margin
