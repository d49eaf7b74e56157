import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pipeline.report import illustrations
from pipeline.report.style import WIDTH, render

pytestmark = pytest.mark.slow


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_convolution_is_a_sum_of_products_at_every_place() -> None:
    torch.manual_seed(0)
    patch, weights = torch.randint(0, 256, (5, 7)), torch.randint(-3, 4, (3, 3))
    answers = illustrations.convolve(patch, weights)
    assert answers.shape == (3, 5)
    for row in range(3):
        for column in range(5):
            assert answers[row, column] == (patch[row : row + 3, column : column + 3] * weights).sum()


def test_pooling_keeps_the_largest_of_each_window() -> None:
    numbers = torch.randperm(36).reshape(6, 6)
    pooled = illustrations.pool(numbers)
    for row in range(3):
        for column in range(3):
            assert pooled[row, column] == numbers[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max()


def test_picture_of_convolution_shows_all_its_numbers() -> None:
    figure = illustrations.draw_convolution(illustrations.PATCH, -illustrations.EDGE)
    found = words(figure)
    assert found[:37] == ["a patch of the picture", *["0", "0", "0", "255", "255", "255"] * 6]
    assert found[37:47] == ["the filter", *["1", "0", "\N{MINUS SIGN}1"] * 3]
    assert found[47:64] == ["its outputs", *["0", "\N{MINUS SIGN}765", "\N{MINUS SIGN}765", "0"] * 4]
    assert render(figure)


def test_picture_of_pooling_shows_all_its_numbers_and_marks_the_largest() -> None:
    figure = illustrations.draw_pooling(illustrations.NUMBERS)
    texts = figure.axes[0].texts
    assert words(figure)[1:17] == [str(number) for number in illustrations.NUMBERS.flatten().tolist()]
    assert [text.get_text() for text in texts[1:17] if text.get_fontweight() == "bold"] == ["6", "5", "8", "7"]
    assert "after pooling" in words(figure)
    assert words(figure)[-4:] == ["6", "5", "8", "7"]
    assert render(figure)


def test_picture_of_relu_replaces_what_is_below_zero() -> None:
    found = words(illustrations.draw_relu(illustrations.STROKE, illustrations.EDGE))
    outputs = ["0", "765", "765", "0", "\N{MINUS SIGN}765", "\N{MINUS SIGN}765"]
    start = found.index("the filter's outputs") + 1
    assert found[start : start + 6] == outputs
    assert found[-7:-1] == ["0", "765", "765", "0", "0", "0"]


def test_lesson_is_drawn_without_a_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {name: illustrations.LESSON[name] for name in ("relu", "learning-rate")}
    monkeypatch.setattr(illustrations, "LESSON", drawn)
    illustrations.draw_lesson(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(drawn)
    assert all(Image.open(io.BytesIO(path.read_bytes())).width == 1200 for path in tmp_path.iterdir())


@pytest.mark.parametrize("draw", illustrations.LESSON.values(), ids=illustrations.LESSON)
def test_titles_of_the_lesson_fit_into_its_pictures(draw: Callable[[], Figure]) -> None:
    with mpl.rc_context(illustrations.LARGE):
        figure = draw()
        figure.canvas.draw()
        for title in figure.texts:
            assert title.get_window_extent().x1 < WIDTH * figure.dpi, title.get_text()
