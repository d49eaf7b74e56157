"""A data set as values: the task, and labelled pictures for training, validation and test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.recipes import Habits


@dataclass(frozen=True)
class Task:
    """A classification task: the form of the pictures, and the classes to tell apart.

    Attributes:
        dataset: name of the data set, such as `mnist`; it is also in the name of the registered model.
        classes: names of the classes, in the order of their numbers; 2 to 100.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        channels: 1 for grey pictures, 3 for colour (RGB).
        mean: of each channel over the training pixels, in [0, 1].
        deviation: standard deviation of each channel over the training pixels, in [0, 1].
        preparation: how a picture of any size becomes one of this form: `name` and parameters (see `preparation`).
    """

    dataset: str
    classes: tuple[str, ...]
    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    preparation: dict[str, Any] = field(default_factory=dict)

    @property
    def padding(self) -> Literal["zeros", "border"]:
        """The surroundings of a picture in training: zeros, or its outermost pixels again."""
        return "border" if self.preparation.get("background") == "edge" else "zeros"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture as the files and the service have it: (height, width), and 3 for colour."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)


MNIST = Task("mnist", tuple("0123456789"), 28, 28, 1, (0.1307,), (0.3081,), {"name": "stroke"})


@dataclass(frozen=True)
class Samples:
    """Labelled pictures: `images` uint8 [n, height, width] or [n, height, width, 3], `labels` int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture."""
        return tuple(self.images.shape[1:])

    def __getitem__(self, part: slice) -> "Samples":
        return Samples(self.images[part], self.labels[part])

    def to(self, device: torch.device) -> "Samples":
        """The same samples on another device."""
        return Samples(self.images.to(device), self.labels.to(device))


def halfway(classes: int) -> float:
    """The accuracy that lies halfway between chance and certainty."""
    return (1 + 1 / classes) / 2


@dataclass(frozen=True)
class DataSet:
    """A checked and split data set.

    Attributes:
        task: the form of the pictures and the classes.
        subset: `full`, or `tenth` for the bundled tenth of MNIST, with which lower accuracy is expected.
        source: origin of the files, for people.
        digest: SHA-256 of the files' checksums.
        train: samples to train on.
        validation: held-out samples; recipes, epochs and champions are chosen on them.
        read_test: reads the test samples. Call it once, after every choice has been made.
        habits: how recipes that adapt change for these pictures.
        minimum_accuracy: share of the validation samples that a champion must classify correctly, unless a setting
            requires another one.
    """

    task: Task
    subset: str
    source: str
    digest: str
    train: Samples
    validation: Samples
    read_test: Callable[[], Samples]
    habits: Habits = field(default_factory=Habits)
    minimum_accuracy: float = 0.5

    @property
    def is_part(self) -> bool:
        """Whether this is a part of a larger data set."""
        return self.subset != "full"
