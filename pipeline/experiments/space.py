"""The space of a search: a recipe, and ranges of some of its fields, from a TOML file."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.data.dataset import DataSet
from pipeline.recipes import RECIPES, Recipe, RecipeError, changed, find

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class SpaceError(RecipeError):
    """The space cannot be searched; the message names the field and what is allowed."""


@dataclass(frozen=True, config=STRICT)
class Range:
    """Numbers from `low` to `high`, whole ones if both are; `log` spreads them evenly over their logarithms."""

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("with log, low must be above 0")

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Choices = Annotated[tuple[Any, ...], Field(min_length=2)]
FIELDS: TypeAdapter[dict[str, Range | Choices]] = TypeAdapter(dict[str, Range | Choices])


@dataclass(frozen=True)
class Space:
    """The recipes of a search.

    Attributes:
        name: of the file; recipes of trials have it with a number.
        base: the recipe whose fields are varied.
        fields: ranges or lists of values by field; a dot leads into a table, as in `augmentation.rotation`.
    """

    name: str
    base: Recipe
    fields: Mapping[str, Range | tuple[Any, ...]]

    def on(self, dataset: DataSet) -> "Space":
        """The space with the habits of a data set in its base: a trial's own values prevail over them."""
        epochs = None if "epochs" in self.fields and "epochs_on_tenth" not in self.fields else self.base.epochs_on_tenth
        base = replace(self.base.adapted(dataset.habits), adapts=False, epochs_on_tenth=epochs)
        return replace(self, base=base)

    def recipe(self, chosen: Mapping[str, int | float], number: int) -> Recipe:
        """The recipe of a trial.

        Args:
            chosen: a number of each range, and the place of a value in each list, by field.
            number: of the trial.

        Raises:
            RecipeError: a value is not allowed in its field.
        """
        values = {name: place if isinstance(of := self.fields[name], Range) else of[int(place)]
                  for name, place in chosen.items()}  # fmt: skip
        return replace(changed(self.base, values), name=f"{self.name}-{number}")


def read_space(file: Path) -> Space:
    """Read a space, and check that the ends of each range are allowed in their field.

    Raises:
        SpaceError: the file cannot be read, or holds no space; or a field is none of a recipe's, or does not take these
            values.
    """
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise SpaceError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpaceError(f"{file} is not TOML: {error}") from None
    called = str(content.pop("recipe", "default"))
    try:
        base = find(called)
        replace(base, name=f"{file.stem}-{10**6}")  # a name that a trial may have
    except RecipeError as error:
        raise SpaceError(f"{file}: recipe {called}: {error}") from None
    except ValidationError:
        raise SpaceError(
            f"{file}: the name of the file names the recipes: use at most 40 letters, digits and . _ -"
        ) from None
    if file.stem in RECIPES:
        raise SpaceError(f"{file}: {file.stem} is a built-in recipe; give the file another name")
    try:
        fields = FIELDS.validate_python(content.pop("fields", {}))
    except ValidationError as error:
        problem = error.errors()[0]
        raise SpaceError(
            f"{file}: fields.{problem['loc'][0]} must be a range, such as {{ low = 1, high = 5 }}, or a list of two "
            f"values or more ({problem['msg'][0].lower()}{problem['msg'][1:]})"
        ) from None
    if content:
        raise SpaceError(f"{file}: {', '.join(content)} is unknown; a space has `recipe` and the table [fields]")
    if not fields:
        raise SpaceError(f"{file}: the table [fields] is empty; give at least one field a range or a list")
    for name, of in fields.items():
        for value in (of.low, of.high) if isinstance(of, Range) else of:
            try:
                changed(base, {name: value})
            except RecipeError as error:
                raise SpaceError(f"{file}: {error}") from None
    return Space(file.stem, base, fields)


def to_toml(recipe: Recipe) -> dict[str, Any]:
    """A recipe as its file has it."""
    return {name: value for name, value in asdict(recipe).items() if value is not None and name != "name"}
