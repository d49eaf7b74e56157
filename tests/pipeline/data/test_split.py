import numpy as np
import torch

from pipeline.data.dataset import DataSet
from pipeline.data.split import apportion, validation_mask


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
