"""A data set as values: labelled pictures, split into training, validation and test digits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Digits:
    """Labelled pictures: `images` uint8 [n, 28, 28] (0 background, 255 ink), `labels` int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Digits":
        return Digits(self.images[part], self.labels[part])

    def to(self, device: torch.device) -> "Digits":
        """The same digits on another device."""
        return Digits(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A checked and split data set.

    Attributes:
        name: `full` or `tenth` for MNIST; a tag of each run.
        source: origin of the files, for people.
        digest: SHA-256 of the files' checksums.
        train: digits to train on.
        validation: held-out digits; recipes, epochs and champions are chosen on them.
        read_test: reads the test digits. Call it once, after every choice has been made.
        subset: whether this is a part of a larger data set; lower accuracy is then expected.
    """

    name: str
    source: str
    digest: str
    train: Digits
    validation: Digits
    read_test: Callable[[], Digits]
    subset: bool = False
