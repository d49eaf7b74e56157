from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from pipeline.experiments.chart import draw_comparison
from pipeline.experiments.table import Row
from pipeline.report.style import render

ROWS = [
    Row(name, parameters, 1, 8, 3, accuracy, 0.0005, accuracy, 0.0005, seconds, 1000.0)
    for name, parameters, accuracy, seconds in (
        ("dense", 101_770, 0.974, 13.0),
        ("chapter", 421_642, 0.990, 166.0),
        ("dropout", 421_642, 0.9912, 175.0),
        ("best", 141_418, 0.9975, 700.0),
    )
]


def titles(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def points(axes: Axes) -> list[tuple[float, float]]:
    """The point of each recipe: size or time, and error."""
    found = []
    for bar in axes.containers:
        assert isinstance(bar, ErrorbarContainer)
        assert bar.lines[0] is not None
        ((across, error),) = np.asarray(bar.lines[0].get_xydata())
        found.append((float(across), float(error)))
    return found


def test_title_names_the_most_accurate_recipe() -> None:
    title = titles(draw_comparison(ROWS, "What the numbers are."))
    assert title.startswith("Most accurate recipe: best, 99.75 % of the test pictures, 141,418 parameters")
    assert title.endswith("What the numbers are.")


def test_both_panels_show_each_recipe_with_the_smallest_error_on_top() -> None:
    figure = draw_comparison(ROWS, "What the numbers are.")
    for axes in figure.axes:
        top, bottom = axes.get_ylim()[::-1]
        assert top < 1 - 0.998
        assert bottom > 1 - 0.974
        assert [1 - error for _, error in points(axes)] == pytest.approx([row.test_accuracy_mean for row in ROWS])
    sizes = [[across for across, _ in points(axes)] for axes in figure.axes]
    assert sizes == [[row.parameters for row in ROWS], [row.seconds_mean for row in ROWS]]


def test_legend_tells_every_recipe_apart_by_colour_and_marker() -> None:
    rows = [replace(ROWS[0], recipe=f"recipe-{k}", parameters=1000 * (k + 1)) for k in range(20)]
    figure = draw_comparison(rows, "Twenty.")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [row.recipe for row in rows]
    looks = set()
    for bar in figure.axes[0].containers:
        assert isinstance(bar, ErrorbarContainer)
        assert bar.lines[0] is not None
        looks.add((bar.lines[0].get_color(), bar.lines[0].get_marker()))
    assert len(looks) == len(rows)


@pytest.mark.parametrize("count", [3, 8])
def test_legend_covers_neither_panel_nor_axis_labels(count: int) -> None:
    rows = [replace(ROWS[k % len(ROWS)], recipe=f"a-recipe-{k}") for k in range(count)]
    figure = draw_comparison(rows, "What the numbers are.")
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 >= 0
    for axes in figure.axes:
        panel = axes.get_tightbbox()
        assert panel is not None
        assert panel.y0 >= legend.y1


def test_one_recipe_and_perfect_recipes_can_be_drawn() -> None:
    render(draw_comparison(ROWS[:1], "One."))
    perfect = Row("perfect", 100, 1, 1, 1, 1.0, None, 1.0, None, 0.01, 1.0)
    render(draw_comparison([perfect], "One."))
    render(draw_comparison([*ROWS, perfect], "Five."))
