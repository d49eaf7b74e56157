"""Contract of the ONNX file as the service relies on it; docs/architecture.md describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

CONTRACTS = ("1", "2")  # version 1 is that of MNIST alone
GOLDEN_TOLERANCE = 1e-4

# Metadata that every file has, as text and as numbers, and the texts that only one version has.
TEXTS = ("run_id", "recipe", "network", "data_digest", "code_digest", "fingerprint", "created")
TEXTS_OF = {"1": ("data",), "2": ("dataset", "subset")}
NUMBERS = ("parameters", "mean", "std", "temperature", "validation_accuracy", "test_accuracy")
TENTH = "tenth"  # the subset of a model that was trained on the bundled tenth of MNIST

DIGITS = tuple("0123456789")  # the names of MNIST's classes

Images = NDArray[np.uint8]  # [batch, height, width] or [batch, height, width, 3]; MNIST: 0 = background, 255 = ink
Probabilities = NDArray[np.float32]  # [batch, classes]: rows sum to 1


@dataclass(frozen=True, eq=False)
class Form:
    """The images that a model takes and the classes that it returns; compared by identity, which takes no time.

    Attributes:
        dataset: name of the data set that it was trained on.
        classes: names of the classes, in the order of the probabilities.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        channels: 1 for grey pictures, 3 for colour (RGB).
        preparation: how a picture of any size becomes one of this form: `name` and its parameters.
    """

    dataset: str
    classes: tuple[str, ...]
    height: int
    width: int
    channels: int
    preparation: Mapping[str, Any]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture: (height, width), and 3 for colour."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)

    @cached_property
    def batch(self) -> tuple[int, ...]:
        """The shape of any number of pictures, for `reshape`."""
        return (-1, *self.shape)

    @cached_property
    def pixels(self) -> int:
        """The bytes of one picture."""
        return self.height * self.width * self.channels

    @cached_property
    def has_strokes(self) -> bool:
        """Whether pictures are strokes on a plain background, as MNIST's are."""
        return bool(self.preparation["name"] == "stroke")

    @cached_property
    def has_digits(self) -> bool:
        """Whether the classes are the digits 0 to 9, so that an answer has a `digit`."""
        return self.classes == DIGITS


MNIST = Form("mnist", DIGITS, 28, 28, 1, {"name": "stroke"})


def number(name: str, text: str) -> int | float | list[float]:
    """Parse one of the metadata `NUMBERS`; a list has a number for each channel.

    Raises:
        ValueError: `text` is not a number of the type that `name` has.
    """
    if text.startswith("["):
        values = orjson.loads(text)
        if not all(type(value) in (int, float) for value in values):
            raise ValueError
        return list(values)
    return int(text) if name == "parameters" else float(text)
