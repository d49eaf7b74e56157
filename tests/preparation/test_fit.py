import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preparation.fit import fit
from tests.preparation.pictures import symbol

FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
RED, BLUE = (200, 30, 30), (20, 40, 180)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32)


def test_proportions_are_kept_and_the_rest_has_the_colour_of_the_border() -> None:
    picture = Image.new("RGB", (100, 50), RED)
    picture.paste(BLUE, (10, 10, 90, 40))
    prepared = fit(pixels(picture), (20, 20), "edge")
    assert (prepared[:5] == RED).all()
    assert (prepared[15:] == RED).all()
    assert np.abs(prepared[8:12, 4:16].astype(int) - BLUE).max() <= 4


@pytest.mark.parametrize("size", [(20, 20), (20, 40), (64, 8)])
def test_whole_picture_is_in_the_middle(size: tuple[int, int]) -> None:
    picture = np.full((810, 540), 60, np.float32)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        picture[row * 660 : row * 660 + 150, column * 390 : column * 390 + 150] = 255  # a mark in each corner
    prepared = fit(picture, size, "black")
    rows, columns = np.flatnonzero(prepared.any(1)), np.flatnonzero(prepared.any(0))
    shown = prepared[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = min(size[0], round(1.5 * size[1])), min(size[1], round(size[0] / 1.5))
    assert shown.shape == (height, width)
    assert (rows[0], columns[0]) == ((size[0] - height) // 2, (size[1] - width) // 2)
    assert all(corner > 250 for corner in (shown[0, 0], shown[0, -1], shown[-1, 0], shown[-1, -1]))
    assert abs(int(shown[height // 2, width // 2]) - 60) <= 1


def test_picture_of_the_size_is_unchanged() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (28, 28, 3)).astype(np.float32)
    assert np.array_equal(fit(picture, (28, 28), "edge"), picture)
    picture[[0, -1]] = picture[:, [0, -1]] = 0
    assert np.array_equal(fit(picture, (28, 28), "black"), picture)


def test_shrinking_averages_areas() -> None:
    board = np.indices((280, 280)).sum(0) % 2 * 255.0
    prepared = fit(board.astype(np.float32), (28, 28), "edge")
    assert np.abs(prepared[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_light_border_is_inverted_for_black() -> None:
    dark, light = pixels(symbol("A", (30, 60)).convert("L")), pixels(symbol("A", (30, 60)).convert("L"))
    light = 255 - light
    prepared = fit(dark, (28, 28), "black")
    assert np.array_equal(prepared, fit(light, (28, 28), "black"))
    assert (prepared[:, :5] == 0).all()
    assert prepared.max() > 200


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 3, 3), (1, 500, 3)])
def test_tiny_and_long_pictures_fit(shape: tuple[int, ...]) -> None:
    prepared = fit(np.full(shape, 77, np.float32), (28, 28), "edge")
    assert (prepared == 77).all()
    assert prepared.shape == (28, 28, *shape[2:])


@pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_pictures_of_fashion_mnist_are_unchanged() -> None:
    images = np.frombuffer(gzip.decompress(FASHION.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    for image in images[:500]:
        assert np.array_equal(fit(image.astype(np.float32), (28, 28), "black"), image)
