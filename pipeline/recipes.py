"""Recipes: a network, its training and its augmentation, as data.

A TOML file with the same fields is a recipe too: `--recipe my.toml`.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from pipeline import PipelineError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

# Strict: a number in quotes is a slip of the pen, and so is a number for true or false.
# Upper bounds far above every sensible value: a slip of the pen is told at once, and not by a full memory.
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=50)]  # names a file as well
Positive = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Filters = Annotated[int, Field(ge=1, le=1024, strict=True)]
Rate = Annotated[float, Field(gt=0, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class RecipeError(PipelineError):
    """The recipe is unknown or invalid; the message names the field and the allowed values."""

    exit_code = 2


@dataclass(frozen=True, config=STRICT)
class ConvArchitecture:
    """The chapter's network; other values than the defaults are the chapter's exercises."""

    name: Literal["MNISTConvNet"] = "MNISTConvNet"
    filters: Annotated[tuple[Filters, ...], Field(min_length=1, max_length=4)] = (32, 64)
    kernel_size: Literal[1, 3, 5, 7] = 3
    dropout: Share = 0.0


@dataclass(frozen=True, config=STRICT)
class DenseArchitecture:
    """The dense network, the chapter's baseline."""

    name: Literal["DenseNet"] = "DenseNet"


@dataclass(frozen=True, config=STRICT)
class VGGArchitecture:
    """Blocks of convolutions with batch normalisation."""

    name: Literal["VGGNet"] = "VGGNet"
    blocks: Annotated[
        tuple[Annotated[tuple[Filters, ...], Field(min_length=1, max_length=8)], ...],
        Field(min_length=1, max_length=4),
    ] = ((32, 64), (64, 128), (128,))
    dropout: Share = 0.0
    first_kernel_size: Literal[3, 5, 7] = 3


# Arguments of the class of that name in `networks`: settings read recipes, and importing torch takes seconds.
NETWORKS: dict[str, Any] = {kind.name: kind for kind in (ConvArchitecture, DenseArchitecture, VGGArchitecture)}
Architecture = Annotated[
    ConvArchitecture | DenseArchitecture | VGGArchitecture,
    Field(discriminator="name"),
    BeforeValidator(lambda given: {"name": ConvArchitecture.name} | given if isinstance(given, dict) else given),
]


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """Bounds of the random distortion of each picture in each epoch; each value is uniform in [-bound, bound]."""

    rotation: Annotated[float, Field(ge=0, le=180, strict=True)] = 0.0  # degrees
    scale: Share = 0.0  # share of the size
    shear: Annotated[float, Field(ge=0, le=45, strict=True)] = 0.0  # degrees
    shift: Annotated[float, Field(ge=0, le=14, strict=True)] = 0.0  # pixels
    thickness: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0  # pixels that the edge of a stroke moves
    flip: Flag = False  # mirror half of the pictures left to right


@dataclass(frozen=True, config=STRICT)
class Habits:
    """The changes of a recipe that adapts to a data set; the defaults, chosen for MNIST, change nothing."""

    least_epochs: Positive = 1  # a recipe with more keeps its own
    augmentation: Augmentation | None = None  # instead of the recipe's


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """A network and its training. `about` describes it in one sentence; the defaults are the chapter's choices."""

    name: Name
    about: Annotated[str, Field(max_length=500)] = ""
    network: Architecture = field(default_factory=ConvArchitecture)
    epochs: Positive = 5
    epochs_on_tenth: Positive | None = None  # above `epochs`: an epoch of the tenth has a tenth of the steps
    batch_size: Positive = 16
    batch_size_on_gpu: Positive = 64
    learning_rate: Rate = 1e-3  # with one cycle: its peak
    one_cycle: Flag = False  # Smith & Topin, "Super-Convergence" (2018); False: a constant rate
    warm_up: Share = 0.3  # share of the steps until the peak
    weight_decay: Annotated[float, Field(ge=0, le=100, strict=True)] = 0.0  # decoupled: Loshchilov & Hutter (2019)
    label_smoothing: Share = 0.0  # Szegedy et al., "Rethinking the Inception Architecture" (2016)
    averaging: Share = 0.0  # decay of the exponential moving average of the weights; 0: none; Polyak (1992)
    mixed_precision: Flag = False  # bfloat16 if the device supports it; Micikevicius et al. (2018)
    augmentation: Augmentation = field(default_factory=Augmentation)
    adapts: Flag = False  # follows the data set's habits

    def adapted(self, habits: Habits) -> "Recipe":
        """The recipe with a data set's habits, if it adapts to them."""
        if not self.adapts:
            return self
        augmentation = habits.augmentation or self.augmentation
        return replace(self, epochs=max(self.epochs, habits.least_epochs), augmentation=augmentation)


AFFINE = Augmentation(rotation=10, scale=0.15, shear=8, shift=1)
# Shared by `default`, `compact` and `best`; each value was chosen on the validation digits.
TRAINED_WELL: dict[str, Any] = {
    "batch_size": 128,
    "batch_size_on_gpu": 128,
    "learning_rate": 4e-3,
    "one_cycle": True,
    "warm_up": 0.1,
    "weight_decay": 0.05,
    "label_smoothing": 0.05,
    "averaging": 0.998,
    "mixed_precision": True,
    "augmentation": AFFINE,
    "adapts": True,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="chapter",
            about="The chapter's network with the chapter's settings: Adam, batches of 16 or 64, 5 epochs.",
        ),
        Recipe(
            name="dense",
            about="The dense network, the chapter's baseline, trained the same way.",
            network=DenseArchitecture(),
        ),
        Recipe(
            name="third-block",
            about="The chapter's exercise: a third convolution, with 128 filters.",
            network=ConvArchitecture(filters=(32, 64, 128)),
        ),
        Recipe(
            name="kernel-5x5",
            about="The chapter's exercise: filters of 5x5 pixels.",
            network=ConvArchitecture(kernel_size=5),
        ),
        Recipe(
            name="dropout",
            about="The chapter's exercise: dropout before the last layer.",
            network=ConvArchitecture(dropout=0.5),
        ),
        Recipe(
            name="default",
            about="The chapter's network, trained well: above the chapter's challenge of 99.5 %.",
            epochs=8,
            epochs_on_tenth=40,
            **TRAINED_WELL,
        ),
        Recipe(
            name="compact",
            about="75,538 parameters: fewer than the chapter claims, and more accurate than its network.",
            network=VGGArchitecture(blocks=((24,), (32, 48), (48, 64))),
            epochs=20,
            epochs_on_tenth=40,
            **TRAINED_WELL | {"learning_rate": 6e-3},
        ),
        Recipe(
            name="best",
            about="The most accurate recipe: more filters and a longer training.",
            network=VGGArchitecture(blocks=((48,), (96, 96), (192,)), dropout=0.3, first_kernel_size=5),
            epochs=22,
            epochs_on_tenth=50,
            **TRAINED_WELL | {"augmentation": replace(AFFINE, thickness=0.5)},
        ),
    )
}


def find(name: str) -> Recipe:
    """Return the built-in recipe of that name, or read the TOML file of that name.

    Raises:
        RecipeError: there is no such recipe, or the file holds no valid recipe.
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
        raise RecipeError("; ".join(map(_explain, error.errors()))) from None
    if recipe.name in RECIPES:
        raise RecipeError(f"name: {recipe.name} is a built-in recipe; choose another name")
    return recipe


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with other values; a dot in a name leads into a table, as in `network.dropout`.

    Raises:
        RecipeError: a field does not exist, or does not take its value.
    """
    content = asdict(recipe)
    for name, value in values.items():
        *tables, field_name = name.split(".")
        table = content
        for each in tables:
            table = table.setdefault(each, {})  # a misspelt one is found by the check below
            if not isinstance(table, dict):
                raise RecipeError(f"{each} has no fields")
        table[field_name] = value
    try:
        return TypeAdapter(Recipe).validate_python(content)
    except ValidationError as error:
        raise RecipeError("; ".join(map(_explain, error.errors()))) from None


def _explain(problem: ErrorDetails) -> str:
    path = [str(part) for part in problem["loc"]]
    place = ".".join(part for part in path if part not in NETWORKS)
    if problem["type"] == "string_pattern_mismatch":
        return f"{place}: must have letters, digits and . _ - only, and begin with a letter or a digit"
    if problem["type"] == "union_tag_invalid":
        return f"{place}.name: must be one of {', '.join(NETWORKS)}"
    if problem["type"] == "unexpected_keyword_argument":
        tables = NETWORKS | {"augmentation": Augmentation}
        known = [each.name for each in fields(tables[path[-2]] if len(path) > 1 else Recipe)]
        near = difflib.get_close_matches(path[-1], known, n=1)
        return f"no field {place} ({f'did you mean {near[0]}?' if near else 'the fields are ' + ', '.join(known)})"
    return f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
