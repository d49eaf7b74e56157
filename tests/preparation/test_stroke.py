import hashlib

import numpy as np
import pytest
from PIL import Image

from preparation import PlainForm, prepare
from preparation.stroke import stroke
from tests.preparation.pictures import symbol

Digits = tuple[np.ndarray, np.ndarray]
MNIST = PlainForm(28, 28, 1, {"name": "stroke"})
# By the commit 4c9244b, with Pillow 13.0: the models in service were judged on such pictures.
AS_BEFORE = "bc09d44163ddec15725513287e34a99f1c19475bc5c5ab95ec6f2014e7069f8f"


def drawn(size: tuple[int, int] = (120, 90), place: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    return np.asarray(symbol("5", size, place=place).convert("L"), np.float32)


@pytest.mark.parametrize("side", [8, 14, 28, 40, 64])
def test_ink_takes_the_same_share_of_every_size(side: int) -> None:
    prepared = stroke(drawn(), (side, side))
    assert prepared is not None
    rows, columns = np.flatnonzero(prepared.max(1) > 40), np.flatnonzero(prepared.max(0) > 40)
    assert abs(len(rows) - 20 / 28 * side) <= 1
    assert len(columns) < len(rows)
    assert prepared.max() == 255


@pytest.mark.parametrize("size", [(28, 56), (56, 28)])
def test_ink_fits_into_both_sides(size: tuple[int, int]) -> None:
    prepared = stroke(drawn(), size)
    assert prepared is not None
    extents = np.ptp(np.flatnonzero(prepared.max(1) > 40)) + 1, np.ptp(np.flatnonzero(prepared.max(0) > 40)) + 1
    assert all(extent <= round(20 / 28 * side) for extent, side in zip(extents, size, strict=True))
    assert any(extent >= round(20 / 28 * side) - 1 for extent, side in zip(extents, size, strict=True))


@pytest.mark.parametrize("side", [28, 50])
def test_mass_is_in_the_middle_wherever_the_ink_lies(side: int) -> None:
    for place in ((0.3, 0.4), (0.6, 0.6)):
        prepared = stroke(drawn((200, 200), place), (side, side))
        assert prepared is not None
        for axis in (0, 1):
            mass = prepared.sum(1 - axis, dtype=float)
            assert abs((mass * np.arange(side)).sum() / mass.sum() - side / 2) <= 0.51


@pytest.mark.parametrize("side", [28, 40])
def test_prepared_picture_is_unchanged_by_preparing_again(side: int) -> None:
    once = stroke(drawn(), (side, side))
    assert once is not None
    for weaker in (0, 40):  # a picture that has this form keeps its ink, weak or full
        prepared = np.minimum(once, 255 - weaker)
        again = stroke(prepared.astype(np.float32), (side, side))
        assert again is not None
        assert np.array_equal(again, prepared)


def test_faint_ink_is_blank() -> None:
    page = np.full((40, 40), 200, np.float32)
    page[10:30, 20] = 200 - 23
    assert stroke(page, (28, 28)) is None
    page[10:30, 20] = 200 - 24
    assert stroke(page, (28, 28)) is not None


def test_mnist_digits_are_prepared_as_before(test_digits: Digits) -> None:
    digest = hashlib.sha256()
    for index, digit in enumerate(test_digits[0][:100]):
        side = 100 + 7 * index
        page = 255 - np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))
        page = np.pad(page, ((index, 5), (9, 2 * index)), constant_values=250)
        digest.update(prepare(Image.fromarray(page), MNIST).tobytes())
    assert digest.hexdigest() == AS_BEFORE
