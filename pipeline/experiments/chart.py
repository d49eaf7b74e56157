"""The picture of a comparison: accuracy against size and time, a point a recipe."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.experiments.labels import name_points
from pipeline.experiments.table import Row
from pipeline.report.style import COLOURS, MARKERS, panels

LEAST_ERROR = 5e-5  # share: half a digit of 10,000, to have a place on a logarithmic axis


def draw_comparison(rows: Sequence[Row], caption: str) -> Figure:
    """Test accuracy against parameters and against training time: a point a recipe, with its standard deviation.

    Accuracy has a logarithmic scale of the error: from 99 to 99.9 % is as far as from 90 to 99 %.

    Args:
        rows: of the table, one a recipe.
        caption: what the numbers are, in a sentence.
    """
    best = max(rows, key=lambda row: row.test_accuracy_mean)
    figure, both = panels(
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
        both, ("parameters (fewer is better)", "seconds of training (fewer is better)"), across, strict=True
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
    for axes, sizes in zip(both, across, strict=True):
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
