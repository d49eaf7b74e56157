import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.report import style as pictures


def plot() -> Figure:
    figure, (left, right) = pictures.panels(3.0, 1, 2, "A title.", "A caption.")
    left.plot([1, 2], color=pictures.BLUE)
    right.plot([2, 1], color=pictures.ORANGE)
    return figure


def tiles() -> Figure:
    figure, axes = pictures.canvas(2.0, "A title.", "A caption.")
    image = pictures.tile(axes, np.eye(3), 1.0, 0.5, 1.0, cmap="gray", vmin=0, vmax=1)
    pictures.scale(figure, image, 9.0, 0.3, 1.5, "weight")
    return figure


@pytest.mark.parametrize("make", [plot, tiles])
def test_pictures_are_1200_pixels_wide_with_a_palette(make: Callable[[], Figure]) -> None:
    picture = Image.open(io.BytesIO(pictures.render(make())))
    assert (picture.format, picture.mode, picture.width) == ("PNG", "P", 1200)
    assert np.asarray(picture.convert("L")).std() > 10


def test_palette_keeps_the_colours() -> None:
    colours = Image.open(io.BytesIO(pictures.render(plot()))).convert("RGB").getcolors(1 << 16)
    assert colours
    drawn = np.array([colour for _, colour in colours])
    for name in (pictures.BLUE, pictures.ORANGE, "#FFFFFF"):
        wanted = np.array([int(name[place : place + 2], 16) for place in (1, 3, 5)])
        assert abs(drawn - wanted).sum(axis=1).min() <= 12, name


def test_tiles_are_placed_in_inches_below_the_caption() -> None:
    picture = np.asarray(Image.open(io.BytesIO(pictures.render(tiles()))).convert("L"))
    top, left = round((pictures.TOP + 0.5) * pictures.DPI), pictures.DPI
    cell = pictures.DPI // 3
    found = [
        [int(picture[top + cell // 2 + cell * row, left + cell // 2 + cell * column]) for column in range(3)]
        for row in range(3)
    ]
    assert found == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert picture.shape[0] == round((pictures.TOP + 2.0) * pictures.DPI)
