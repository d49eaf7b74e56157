"""The settings of the pipeline: environment variables `PIPELINE_…`, command-line flags and the README's table.

`Settings` holds what every command needs; each command adds its own.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, CliApp, CliVariadicArg, NoDecode, SettingsConfigDict, SettingsError

from pipeline import PipelineError
from pipeline.recipes import RECIPES, RecipeError, find

PREFIX = "PIPELINE_"
Kind = TypeVar("Kind", bound="Settings")


class WrongSettingError(PipelineError):
    """A setting has no such name or value; the message says which, and what is allowed."""

    exit_code = 2


class Settings(BaseSettings):
    """Where everything is."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # Compose hands on an unset variable as an empty one
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        cli_show_env_vars=True,
        extra="forbid",
    )

    state_dir: Path = Field(
        Path("var"),
        description="Folder for all that is written: downloads, and runs and models where no MLflow server is set.",
    )
    mnist_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("mnist_dir"),
        description="Folder that holds `MNIST/raw/…`; nothing is downloaded then.",
    )
    tracking_timeout: float = Field(
        60.0, ge=0, description="Seconds to wait for the MLflow server of MLFLOW_TRACKING_URI at the start."
    )


class DataSettings(Settings):
    """Which digits."""

    data: Literal["auto", "full", "tenth"] = Field(
        "auto",
        description="The full MNIST, the bundled tenth of it, or (`auto`) the full set where it can be had.",
    )


class GateSettings(DataSettings):
    """What a version must show to become champion."""

    minimum_accuracy: float = Field(
        0.98, ge=0, le=1, description="Share of the validation digits that a champion must read right."
    )
    significance: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="p-value of McNemar's paired test below which a candidate counts as worse than the champion.",
    )


class RunSettings(DataSettings):
    """Where a run trains, and whether anew."""

    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="Where to train: cuda, mps or cpu; `auto` takes the first of them that is there."
    )
    fresh: bool = Field(
        False, description="Start over: forget checkpoints, and train again what these settings trained before."
    )


def _known(name: str) -> str:
    try:
        find(name)
    except RecipeError as error:
        raise ValueError(str(error)) from None
    return name


RecipeName = Annotated[str, AfterValidator(_known)]


class TrainSettings(RunSettings, GateSettings):
    """How to train."""

    recipe: RecipeName = Field(
        "default", description=f"What to train: {', '.join(RECIPES)}, or a TOML file of your own."
    )
    seed: int = Field(1, ge=0, lt=2**32, description="Decides weights, order and augmentation.")


class CompareSettings(RunSettings):
    """What to compare, and over how many seeds."""

    recipes: CliVariadicArg[Annotated[tuple[RecipeName, ...], NoDecode]] = Field(
        ",".join(RECIPES),
        validate_default=True,
        min_length=1,
        description="What to compare: recipes and TOML files of your own, with commas between, or as flags spaces.",
    )
    seeds: int = Field(3, ge=1, lt=2**32, description="How often to train each recipe: with the seeds 1 to this one.")

    @field_validator("recipes", mode="before")
    @classmethod
    def _split(cls, names: object) -> object:
        return [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    @field_validator("recipes")
    @classmethod
    def _once_each(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        called = [find(name).name for name in names]
        for name in called:
            if called.count(name) > 1:
                raise ValueError(f"{name} is there more than once")
        return names


class ExportSettings(Settings):
    """Which model to write where."""

    to: Path = Field(description="The file to write; - is the standard output.")
    version: int | None = Field(None, ge=1, description="Version of the registered model; the champion if not given.")


class PromoteSettings(GateSettings):
    """Which version to promote."""

    version: int | None = Field(None, ge=1, description="Version to judge and promote; the newest if not given.")


COMMAND_SETTINGS: tuple[type[Settings], ...] = (TrainSettings, CompareSettings, ExportSettings, PromoteSettings)


def read(kind: type[Kind], arguments: list[str], command: str) -> Kind:
    """Settings from flags, then environment variables, then defaults.

    Raises:
        WrongSettingError: one of them has no such name or value.
    """
    _refuse_unknown_variables()
    try:
        kind.model_config["cli_prog_name"] = f"python -m pipeline {command}"
        return CliApp.run(kind, cli_args=arguments)
    except ValidationError as error:
        raise WrongSettingError(" ".join(_explain(problem) for problem in error.errors())) from None
    except SettingsError as error:
        raise WrongSettingError(f"{str(error).removeprefix('error parsing CLI: ')}; see --help.") from None


def variable(field: str) -> str:
    """The environment variable of a field."""
    return "MNIST_DIR" if field == "mnist_dir" else f"{PREFIX}{field.upper()}"


def _explain(problem: object) -> str:
    assert isinstance(problem, dict)
    field = str(problem["loc"][0]) if problem["loc"] else "settings"
    what = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"--{field} is missing: give it a value (see --help)."
    if problem["type"] == "extra_forbidden":
        return f"--{field.replace('_', '-')} is not a setting of this command; see --help."
    return f"{variable(field)} (--{field.replace('_', '-')}) cannot be {problem['input']!r}: {what}."


def _refuse_unknown_variables() -> None:
    known = {variable(field) for kind in COMMAND_SETTINGS for field in kind.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}."
            raise WrongSettingError(f"There is no setting {name}: {hint}")
