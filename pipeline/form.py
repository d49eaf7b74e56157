"""The form of an exported file: its classes, and the pictures that it takes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from pipeline.data.dataset import MNIST
from pipeline.data.names import joined

MOST_NAMED = 5  # classes in a sentence


class Form(NamedTuple):
    """The classes, and the pictures of one shape.

    Attributes:
        classes: their names.
        shape: of one picture: (height, width), and 3 for colour.
        preparation: how a picture gets this shape: `name` and parameters.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    preparation: dict[str, Any]

    def difference(self, champion: "Form") -> str:
        """The difference from the form of the champion, as a clause."""
        if self.classes != champion.classes:
            new = [name for name in self.classes if name not in champion.classes]
            gone = [name for name in champion.classes if name not in self.classes]
            changes = {"new": new, "gone": gone} if new or gone else {"in another order": list(self.classes)}
            named = [f"{what}: {joined(names, MOST_NAMED)}" for what, names in changes.items() if names]
            return f"its classes differ ({'; '.join(named)})"
        if self.shape != champion.shape:
            return f"its pictures have {describe(self.shape)}, and the champion's {describe(champion.shape)}"
        own, others = (" ".join(map(str, form.preparation.values())) for form in (self, champion))
        return f"the preparation of its pictures is {own}, and the champion's is {others}"


def describe(shape: tuple[int, ...]) -> str:
    """The shape of a picture, for people."""
    return f"{shape[1]}x{shape[0]} pixels {'in colour' if len(shape) == 3 else 'in grey'}"


def read_form(file: Path) -> Form:
    """Read the form from the metadata of an exported file."""
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    if "classes" not in metadata:  # contract 1 had MNIST alone
        return Form(MNIST.classes, MNIST.shape, MNIST.preparation)
    height, width, channels = (int(metadata[name]) for name in ("height", "width", "channels"))
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Form(tuple(json.loads(metadata["classes"])), shape, json.loads(metadata["preparation"]))
