"""The form that a network takes, and the two ways to bring a picture to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preparation.fit import BACKGROUNDS, fit
from preparation.pixels import MODES, WORKING_SIDE, opaque
from preparation.stroke import stroke

# Parameters of each preparation, with the values that they may have.
PARAMETERS: dict[str, dict[str, tuple[str, ...]]] = {"stroke": {}, "fit": {"background": BACKGROUNDS}}


class Form(Protocol):
    """The form of the pictures of one data set; the pipeline's task and the service's model have it.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: 1 for grey, 3 for colour (RGB).
        preparation: `name` and parameters, as `check` accepts them.
    """

    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def preparation(self) -> Mapping[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class PlainForm:
    """A `Form` and nothing else."""

    height: int
    width: int
    channels: int
    preparation: Mapping[str, Any]


def shape(form: Form) -> tuple[int, ...]:
    """The shape of one picture: (height, width), and 3 for colour."""
    return (form.height, form.width) if form.channels == 1 else (form.height, form.width, form.channels)


class BlankError(ValueError):
    """A picture has no ink: `stroke` finds nothing to centre."""


def prepare(picture: Image.Image, form: Form, upright: Image.Transpose | None = None) -> NDArray[np.uint8]:
    """Bring a picture to a form.

    Args:
        picture: of any size and mode. If its pixels are not decoded yet, a large JPEG is decoded at a smaller size.
        form: the form; its preparation has passed `check`.
        upright: turns the picture upright, if its file has an orientation (see `UPRIGHT`).

    Returns:
        uint8 `[height, width]`, or `[height, width, 3]` for colour.

    Raises:
        BlankError: the picture has no ink, with `stroke`.
        Exception: of many types, if Pillow cannot decode the picture.
    """
    picture.draft(MODES[form.channels], (WORKING_SIDE, WORKING_SIDE))
    whole = opaque(picture, form.channels, upright)
    size = form.height, form.width
    if form.preparation["name"] == "fit":
        return fit(whole, size, form.preparation["background"])
    prepared = stroke(whole, size)
    if prepared is None:
        raise BlankError("no ink on a plain background")
    return prepared


def check(preparation: object, channels: int) -> None:
    """Check the name and the parameters of a preparation.

    Raises:
        ValueError: they are unknown, or unfit for the channels; the message is a clause.
    """
    if channels not in MODES:
        raise ValueError(f"{channels} channels are neither grey (1) nor colour (3)")
    name = preparation.get("name") if isinstance(preparation, Mapping) else None
    if not isinstance(preparation, Mapping) or not isinstance(name, str) or name not in PARAMETERS:
        raise ValueError(f"the preparation {preparation!r} is unknown; expected one with the name {_any(PARAMETERS)}")
    if name == "stroke" and channels != 1:
        raise ValueError("the preparation stroke is for grey pictures alone; expected fit for colour")
    parameters = {key: value for key, value in preparation.items() if key != "name"}
    expected = PARAMETERS[name]
    if parameters.keys() != expected.keys():
        listed = ", ".join(expected) or "none"
        raise ValueError(f"the parameters of the preparation {name} are {sorted(parameters)}; expected {listed}")
    for key, value in parameters.items():
        if value not in expected[key]:
            raise ValueError(
                f"the {key} {value!r} of the preparation {name} is unknown; expected {_any(expected[key])}"
            )


def _any(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    return " or ".join(names)
