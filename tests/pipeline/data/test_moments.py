import numpy as np
import torch

from pipeline.data.moments import moments


def test_moments_of_grey_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 9), dtype=np.uint8)
    pixels = images / 255
    assert moments(torch.from_numpy(images)) == ((round(pixels.mean(), 4),), (round(pixels.std(), 4),))


def test_moments_of_colour_pictures_are_of_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 9, 3), dtype=np.uint8) // np.array([1, 2, 4], np.uint8)
    pixels = images / 255
    means, deviations = moments(torch.from_numpy(images))
    assert means == tuple(pixels.mean((0, 1, 2)).round(4))
    assert deviations == tuple(pixels.std((0, 1, 2)).round(4))
