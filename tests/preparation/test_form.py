import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from preparation import BlankError, PlainForm, check, prepare, shape
from tests.preparation.pictures import in_modes, symbol

STROKE: dict[str, Any] = {"name": "stroke"}
EDGE: dict[str, Any] = {"name": "fit", "background": "edge"}
BLACK: dict[str, Any] = {"name": "fit", "background": "black"}
MODES = list(in_modes(Image.new("RGB", (1, 1))))


@pytest.mark.parametrize(("preparation", "channels"), [(STROKE, 1), (EDGE, 1), (EDGE, 3), (BLACK, 1), (BLACK, 3)])
def test_every_preparation_gives_the_form(preparation: dict[str, Any], channels: int) -> None:
    check(preparation, channels)
    for height, width in ((28, 28), (8, 64), (64, 8), (33, 47)):
        form = PlainForm(height, width, channels, preparation)
        prepared = prepare(symbol("A", (90, 50)), form)
        assert prepared.dtype == np.uint8
        assert prepared.shape == shape(form) == ((height, width) if channels == 1 else (height, width, 3))
        assert prepared.max() > prepared.min()


@pytest.mark.parametrize("preparation", [STROKE, EDGE, BLACK])
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_one_picture_give_one_result(preparation: dict[str, Any], mode: str) -> None:
    picture = symbol("S", (200, 200)).point(lambda value: 255 * (value > 127))  # "1" holds it, too
    expected = prepare(picture, PlainForm(28, 28, 1, preparation))
    prepared = prepare(in_modes(picture)[mode], PlainForm(28, 28, 1, preparation))
    assert np.abs(prepared.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("preparation", [EDGE, BLACK])
@pytest.mark.parametrize("mode", MODES)
def test_grey_picture_has_equal_pixels_in_grey_and_in_colour(preparation: dict[str, Any], mode: str) -> None:
    for size in ((40, 30), (700, 900)):
        picture = in_modes(symbol("S", size, (40, 40, 40), (190, 190, 190)))[mode]
        grey = prepare(picture, PlainForm(28, 28, 1, preparation))
        colour = prepare(picture, PlainForm(28, 28, 3, preparation))
        assert all(np.array_equal(colour[..., channel], grey) for channel in range(3))
        if mode != "1":  # which has no greys
            assert abs(int(grey[14, 5]) - (190 if preparation == EDGE else 255 - 190)) < 3


def test_large_jpeg_is_decoded_at_a_smaller_size() -> None:
    content = io.BytesIO()
    symbol("S", (1600, 1600)).save(content, "JPEG")
    with Image.open(content) as picture:
        prepare(picture, PlainForm(28, 28, 3, EDGE))
        assert picture.size == (400, 400)


def test_picture_is_turned_upright() -> None:
    picture = symbol("7", (50, 70), (200, 0, 0))
    form = PlainForm(28, 28, 3, EDGE)
    turned = prepare(picture.transpose(Image.Transpose.ROTATE_90), form, Image.Transpose.ROTATE_270)
    assert np.array_equal(turned, prepare(picture, form))


def test_blank_picture_is_refused_by_stroke_alone() -> None:
    blank = Image.new("RGB", (50, 50), (200, 30, 30))
    with pytest.raises(BlankError):
        prepare(blank, PlainForm(28, 28, 1, STROKE))
    assert (prepare(blank, PlainForm(28, 28, 3, EDGE)) == (200, 30, 30)).all()


REFUSED = [
    (None, 1, "the preparation None is unknown; expected one with the name stroke or fit"),
    ({}, 1, "is unknown"),
    ({"name": ["fit"]}, 1, "is unknown"),
    ({"name": "squeeze"}, 1, "squeeze.* is unknown"),
    (STROKE, 3, "stroke is for grey pictures alone; expected fit"),
    (STROKE, 2, "2 channels are neither grey"),
    ({"name": "stroke", "background": "edge"}, 1, r"stroke are \['background'\]; expected none"),
    ({"name": "fit"}, 1, r"fit are \[\]; expected background"),
    ({"name": "fit", "background": "red"}, 3, "the background 'red' .* is unknown; expected edge or black"),
    ({"name": "fit", "background": ["edge"]}, 3, "is unknown; expected edge or black"),
]


@pytest.mark.parametrize(("preparation", "channels", "clause"), REFUSED)
def test_unknown_preparation_is_refused_by_name(preparation: object, channels: int, clause: str) -> None:
    with pytest.raises(ValueError, match=clause):
        check(preparation, channels)


def test_importing_preparation_imports_neither_side() -> None:
    code = "import preparation, sys; print([name for name in ('torch', 'pipeline', 'serving') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
