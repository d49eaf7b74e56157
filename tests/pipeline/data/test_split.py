import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data import named
from pipeline.data.catalogue import CATALOGUE, TENTH
from pipeline.data.dataset import DataSet
from pipeline.data.files import Files
from pipeline.data.split import apportion, validation_mask


def masked(mask: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16]


def test_mask_of_the_tenth_is_as_ever() -> None:
    digits = named.read(Files(CATALOGUE["mnist"], TENTH, "tenth"), "train")
    assert masked(validation_mask(digits.images.numpy(), digits.labels.numpy())) == "88f4bde1b961bd3b"


@pytest.mark.full
def test_mask_of_mnist_is_as_ever() -> None:
    digits = named.read(Files(CATALOGUE["mnist"], Path(os.environ["MNIST_DIR"]) / "MNIST" / "raw"), "train")
    assert masked(validation_mask(digits.images.numpy(), digits.labels.numpy())) == "d3447ce53841e842"


def test_split_is_stratified(tenth: DataSet) -> None:
    everything = torch.bincount(torch.cat([tenth.train.labels, tenth.validation.labels]), minlength=10)
    held_out = torch.bincount(tenth.validation.labels, minlength=10)
    assert (held_out - everything / 12).abs().max() < 1


def test_split_ignores_the_order_of_the_digits(tenth: DataSet) -> None:
    images, labels = tenth.train.images.numpy(), tenth.train.labels.numpy()
    order = np.random.default_rng(0).permutation(len(labels))
    expected = validation_mask(images, labels)
    assert (validation_mask(images[order], labels[order]) == expected[order]).all()


def test_largest_remainders_are_rounded_up() -> None:
    assert apportion(np.array([50, 30, 20, 0]), 6).tolist() == [3, 2, 1, 0]
    assert apportion(np.array([1, 1, 1]), 7).sum() == 7


@pytest.mark.parametrize("shape", [(8, 9), (12, 11, 3)])
def test_split_is_stratified_for_any_classes_and_shape(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(47), 25))
    mask = validation_mask(random.integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels)
    assert mask.sum() == round(len(labels) / 12)
    assert np.abs(np.bincount(labels[mask], minlength=47) - 25 / 12).max() < 1


def test_copies_of_a_picture_lie_on_one_side_even_across_classes() -> None:
    random = np.random.default_rng(0)
    different = random.integers(0, 256, (120, 6, 6), dtype=np.uint8)
    images, labels = np.concatenate([different, different, different]), random.integers(0, 3, 360)
    mask = validation_mask(images, labels)
    assert (mask[:120] == mask[120:240]).all()
    assert (mask[:120] == mask[240:]).all()
    assert 30 <= mask.sum() <= 90  # a third of the copies are chosen, and the others follow
