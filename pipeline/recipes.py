"""The recipes: everything that decides how a network is trained, as data.

A recipe of one's own is a TOML file with the same fields; `--recipe my.toml` trains it.
"""

import tomllib
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from pipeline import PipelineError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class RecipeError(PipelineError):
    """There is no such recipe, or it cannot be; the message says which field, and what is allowed."""

    exit_code = 2


@dataclass(frozen=True, config=STRICT)
class MNISTConvNet:
    """The chapter's network, and its exercises: see `networks.MNISTConvNet`."""

    name: Literal["MNISTConvNet"] = "MNISTConvNet"
    filters: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (32, 64)
    kernel_size: Literal[1, 3, 5, 7] = 3
    dropout: Share = 0.0


@dataclass(frozen=True, config=STRICT)
class DenseNet:
    """The network that the chapter's beats: see `networks.DenseNet`."""

    name: Literal["DenseNet"] = "DenseNet"


@dataclass(frozen=True, config=STRICT)
class VGGNet:
    """Blocks of convolutions with batch normalisation: see `networks.VGGNet`."""

    name: Literal["VGGNet"] = "VGGNet"
    blocks: Annotated[
        tuple[Annotated[tuple[Positive, ...], Field(min_length=1)], ...], Field(min_length=1, max_length=4)
    ] = ((32, 64), (64, 128), (128,))
    dropout: Share = 0.0
    first_kernel_size: Literal[3, 5, 7] = 3


NETWORKS = ("MNISTConvNet", "DenseNet", "VGGNet")
Architecture = Annotated[
    Annotated[MNISTConvNet, Tag("MNISTConvNet")]
    | Annotated[DenseNet, Tag("DenseNet")]
    | Annotated[VGGNet, Tag("VGGNet")],
    Discriminator(lambda given: given.get("name", NETWORKS[0]) if isinstance(given, dict) else given.name),
]


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """Bounds of the random change that each digit gets in each epoch, drawn uniformly from -bound to +bound."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees
    scale: Share = 0.0  # share of the size
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0  # degrees
    shift: Annotated[float, Field(ge=0, le=14)] = 0.0  # pixels
    thickness: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the strokes: pixels that their edges move


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """How a network is trained. `about` says in one sentence what for; the defaults are the chapter's choices."""

    name: str
    about: str = ""
    network: Architecture = field(default_factory=MNISTConvNet)
    epochs: Positive = 5
    epochs_on_tenth: Positive | None = None  # more than `epochs`: the tenth has a tenth of the steps in each
    batch_size: Positive = 16
    batch_size_on_gpu: Positive = 64
    learning_rate: Rate = 1e-3  # the peak, where the schedule is one cycle
    one_cycle: bool = False  # Smith & Topin, "Super-Convergence" (2018); a constant rate otherwise
    warm_up: Share = 0.3  # share of the steps until the peak
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # decoupled: Loshchilov & Hutter (2019)
    label_smoothing: Share = 0.0  # Szegedy et al., "Rethinking the Inception Architecture" (2016)
    averaging: Share = 0.0  # decay of the exponential moving average of the weights, 0 for none; Polyak (1992)
    mixed_precision: bool = False  # Micikevicius et al. (2018), in bfloat16, where the device is made for it
    augmentation: Augmentation = field(default_factory=Augmentation)


BENT = Augmentation(rotation=10, scale=0.15, shear=8, shift=1)
# What the recipes of the project share; each value was chosen on the validation digits.
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
    "augmentation": BENT,
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
            about="The dense network that the chapter beats, trained the same way.",
            network=DenseNet(),
        ),
        Recipe(
            name="third-block",
            about="The chapter's exercise: a third convolution, with 128 filters.",
            network=MNISTConvNet(filters=(32, 64, 128)),
        ),
        Recipe(
            name="kernel-5x5",
            about="The chapter's exercise: filters of 5x5 pixels.",
            network=MNISTConvNet(kernel_size=5),
        ),
        Recipe(
            name="dropout",
            about="The chapter's exercise: dropout before the last layer.",
            network=MNISTConvNet(dropout=0.5),
        ),
        Recipe(
            name="default",
            about="The chapter's network, trained well: past the chapter's challenge of 99.5 %.",
            epochs=8,
            epochs_on_tenth=40,
            **TRAINED_WELL,
        ),
        Recipe(
            name="compact",
            about="Fewer parameters than the chapter counts, and more accurate than its network: 75,538.",
            network=VGGNet(blocks=((24,), (32, 48), (48, 64))),
            epochs=20,
            epochs_on_tenth=40,
            **TRAINED_WELL | {"learning_rate": 6e-3},
        ),
        Recipe(
            name="best",
            about="The most accurate of them: more filters, and more time to train.",
            network=VGGNet(blocks=((48,), (96, 96), (192,)), dropout=0.3, first_kernel_size=5),
            epochs=22,
            epochs_on_tenth=50,
            **TRAINED_WELL | {"augmentation": replace(BENT, thickness=0.5)},
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
        raise RecipeError("; ".join(map(_explain, error.errors()))) from None
    if recipe.name in RECIPES:
        raise RecipeError(f"name: {recipe.name} is a recipe of the project; give yours another")
    return recipe


def _explain(problem: ErrorDetails) -> str:
    place = [str(part) for part in problem["loc"] if part not in NETWORKS]
    if problem["type"].startswith("union_tag"):
        return f"{'.'.join(place)}.name: must be one of {', '.join(NETWORKS)}"
    return f"{'.'.join(place)}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
