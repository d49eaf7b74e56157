import pytest
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


def test_comparison_names_each_recipe_in_both_panels_and_the_most_accurate_in_its_title() -> None:
    figure = draw_comparison(ROWS, "What the numbers are.")
    assert "The most accurate is best: 99.75 % of the test digits, with 141,418 parameters" in titles(figure)
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {row.recipe for row in ROWS}
        top, bottom = axes.get_ylim()[::-1]
        assert top < 1 - 0.998  # upside down: the smallest error on top
        assert bottom > 1 - 0.974
        points = [bar.lines[0].get_xydata()[0] for bar in axes.containers]
        assert [1 - error for _, error in points] == pytest.approx([row.test_accuracy_mean for row in ROWS])
    sizes = [[bar.lines[0].get_xdata()[0] for bar in axes.containers] for axes in figure.axes]
    assert sizes == [[row.parameters for row in ROWS], [row.seconds_mean for row in ROWS]]


def test_comparison_can_be_drawn_of_one_recipe_and_of_perfect_ones() -> None:
    render(draw_comparison(ROWS[:1], "One."))
    perfect = Row("perfect", 100, 1, 1, 1, 1.0, None, 1.0, None, 0.01, 1.0)
    render(draw_comparison([perfect], "One."))
    render(draw_comparison([*ROWS, perfect], "Five."))
