"""The recipes: everything that decides how a network is trained, as data.

A recipe of one's own is a TOML file with the same fields; `--recipe my.toml` trains it.
"""

import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline import PipelineError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class RecipeError(PipelineError):
    """There is no such recipe, or it cannot be; the message says which field, and what is allowed."""

    exit_code = 2


@dataclass(frozen=True, config=STRICT)
class Architecture:
    """A network: see the classes of the same names in `networks`. The dense network heeds none of the fields."""

    name: Literal["MNISTConvNet", "DenseNet"] = "MNISTConvNet"
    filters: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (32, 64)
    kernel_size: Literal[1, 3, 5, 7] = 3
    dropout: Share = 0.0


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """Bounds of the random affine change that each digit gets in each epoch, drawn uniformly from -bound to +bound."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees
    scale: Share = 0.0  # share of the size
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0  # degrees
    shift: Annotated[float, Field(ge=0, le=14)] = 0.0  # pixels


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """How a network is trained. `about` says in one sentence what for; the defaults are the chapter's choices."""

    name: str
    about: str = ""
    network: Architecture = field(default_factory=Architecture)
    epochs: Positive = 5
    epochs_on_tenth: Positive | None = None  # more than `epochs`: the tenth has a tenth of the steps in each
    batch_size: Positive = 16
    batch_size_on_gpu: Positive = 64
    learning_rate: Rate = 1e-3  # the peak, where the schedule is one cycle
    one_cycle: bool = False  # Smith & Topin, "Super-Convergence" (2018); a constant rate otherwise
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # decoupled: Loshchilov & Hutter (2019)
    label_smoothing: Share = 0.0  # Szegedy et al., "Rethinking the Inception Architecture" (2016)
    averaging: Share = 0.0  # decay of the exponential moving average of the weights, 0 for none; Polyak (1992)
    augmentation: Augmentation = field(default_factory=Augmentation)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="chapter",
            about="The chapter's network with the chapter's settings: Adam, batches of 16 or 64, 5 epochs.",
        ),
        Recipe(
            name="dense",
            about="The dense network that the chapter beats, trained the same way.",
            network=Architecture("DenseNet"),
        ),
        Recipe(
            name="third-block",
            about="The chapter's exercise: a third convolution, with 128 filters.",
            network=Architecture(filters=(32, 64, 128)),
        ),
        Recipe(
            name="kernel-5x5",
            about="The chapter's exercise: filters of 5x5 pixels.",
            network=Architecture(kernel_size=5),
        ),
        Recipe(
            name="dropout",
            about="The chapter's exercise: dropout before the last layer.",
            network=Architecture(dropout=0.5),
        ),
        Recipe(
            name="default",
            about="The chapter's network, trained well: past the chapter's challenge of 99.5 %.",
            epochs=8,
            epochs_on_tenth=40,
            batch_size=128,
            batch_size_on_gpu=128,
            learning_rate=4e-3,
            one_cycle=True,
            weight_decay=0.01,
            label_smoothing=0.05,
            averaging=0.998,
            augmentation=Augmentation(rotation=10, scale=0.1, shear=8, shift=2),
        ),
    )
}


def find(name: str) -> Recipe:
    """A recipe by its name, or from the TOML file of that name.

    Raises:
        RecipeError: there is no such recipe, or the file does not hold one.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(".toml"):
        raise RecipeError(f"there is no such recipe; there are: {', '.join(RECIPES)}, and TOML files of your own")
    try:
        recipe = TypeAdapter(Recipe).validate_python({"name": Path(name).stem, **tomllib.loads(Path(name).read_text())})
    except OSError as error:
        raise RecipeError(f"the file cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the file is not TOML: {error}") from None
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(problem["loc"], problem["msg"]) for problem in error.errors())) from None
    if recipe.name in RECIPES:
        raise RecipeError(f"name: {recipe.name} is a recipe of the project; give yours another")
    return recipe


def _explain(place: tuple[int | str, ...], problem: str) -> str:
    return f"{'.'.join(map(str, place))}: {problem[0].lower()}{problem[1:]}"
