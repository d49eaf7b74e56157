"""Settings of the pipeline: environment variables `PIPELINE_…`, command-line flags and the table in the docs.

`Settings` has the fields that every command needs; each command adds its own.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliVariadicArg,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipeline import PipelineError
from pipeline.data.names import NAMES, DataError, name_of
from pipeline.recipes import RECIPES, RecipeError, find

PREFIX = "PIPELINE_"
# Flags of one command, without a variable: one for all commands would confirm or name another thing than was meant.
FLAGS_ONLY = ("to", "file", "space", "source", "artifacts", "version", "yes")
RENAMED = {"data": "subset"}  # earlier names of settings, which still work


class WrongSettingError(PipelineError):
    """A setting is unknown or has an invalid value; the message names it and what is allowed."""

    exit_code = 2


def _is_dataset(choice: str) -> str:
    try:
        name_of(choice)
    except DataError as error:
        raise ValueError(str(error)) from None
    return choice


DatasetName = Annotated[str, AfterValidator(_is_dataset)]


class Settings(BaseSettings):
    """Output directory and connection to MLflow."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # Compose passes an unset variable as an empty one
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
        description="Output directory: downloads, checkpoints, and runs and models if no MLflow server is set.",
    )
    mnist_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("mnist_dir"),
        description="Directory that holds `MNIST/raw/…`; if set, nothing is downloaded.",
    )
    log_format: Literal["text", "json"] = Field("text", description="`text`, or `json`: one JSON object per event.")
    tracking_timeout: float = Field(
        30.0, ge=0, description="Seconds to wait at the start for the MLflow server at MLFLOW_TRACKING_URI."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags and variables, but no variables for `FLAGS_ONLY`."""
        assert isinstance(env_settings, EnvSettingsSource)
        names = {"from", *(variable(field).lower() for field in FLAGS_ONLY)}
        variables = {name: text for name, text in env_settings.env_vars.items() if name not in names}
        for former, name in RENAMED.items():
            if text := variables.pop(f"{PREFIX}{former}".lower(), None):
                variables.setdefault(f"{PREFIX}{name}".lower(), text)
        env_settings.env_vars = variables
        return init_settings, env_settings


class DeliverySettings(Settings):
    """Reports to MLflow."""

    tracking_patience: float = Field(
        300.0,
        ge=0,
        description="Seconds without an answer after which a command stops waiting for MLflow at its end, with code 3.",
    )


class ModelSettings(Settings):
    """The data set, and with it the registered model."""

    dataset: DatasetName = Field(
        "mnist",
        description=f"Data set: {', '.join(NAMES)}, or `folder:PATH`, a folder with one folder of pictures for each "
        "class. Each has a registered model of its own.",
    )


class DataSettings(ModelSettings):
    """The pictures."""

    dataset_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("dataset_dir"),
        description="Directory that holds the files of the data set; if set, nothing is downloaded.",
    )
    subset: Literal["auto", "full", "tenth"] = Field(
        "auto",
        description="`full`, the bundled `tenth` of MNIST, or `auto`: all of MNIST if it can be found or downloaded. "
        "The earlier name `PIPELINE_DATA` is still read.",
    )
    size: int = Field(28, ge=8, le=64, description="Side in pixels to which pictures of a folder are brought.")
    preparation: Literal["fit", "stroke"] = Field(
        "fit",
        description="How pictures of a folder are prepared: `fit` shows the whole picture, `stroke` finds the ink and "
        "centres it as MNIST does.",
    )
    flip: bool = Field(False, description="Mirror half of the pictures of a folder in training.")


class GateSettings(DataSettings):
    """Requirements for a champion."""

    minimum_accuracy: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the validation pictures that a champion must classify correctly; by default 0.98 for "
        "MNIST, and otherwise halfway between chance and certainty.",
    )
    significance: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="p-value of McNemar's test below which a candidate counts as worse than the champion.",
    )


class RunSettings(DeliverySettings, DataSettings):
    """Device, and whether to start over."""

    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="Device: `cuda`, `mps` or `cpu`; `auto` takes the first that is available."
    )
    fresh: bool = Field(False, description="Start over: ignore checkpoints and finished runs.")


def _known(name: str) -> str:
    try:
        find(name)
    except RecipeError as error:
        raise ValueError(str(error)) from None
    return name


RecipeName = Annotated[str, AfterValidator(_known)]


class TrainSettings(RunSettings, GateSettings):
    """Recipe and seed."""

    recipe: RecipeName = Field("default", description=f"Recipe: {', '.join(RECIPES)}, or a TOML file of your own.")
    seed: int = Field(
        1,
        ge=0,
        lt=2**32,
        description="Random seed of the weights, the order and the augmentation.",
    )


class ClusterSettings(RunSettings):
    """The place that carries out the runs of a comparison or a search."""

    cluster: str | None = Field(
        None,
        description="Ray cluster that carries out the runs at once: `local` for the cores and GPUs of this machine, or "
        "its address: `host:6379`, or `auto` on one of its machines. Empty: one run after another.",
    )
    cpus_per_run: float = Field(1.0, ge=0, description="CPUs of the cluster for each run.")
    gpus_per_run: float = Field(0.0, ge=0, description="GPUs of the cluster for each run.")


class CompareSettings(ClusterSettings):
    """Recipes and seeds to compare."""

    recipes: CliVariadicArg[Annotated[tuple[RecipeName, ...], NoDecode]] = Field(
        ",".join(RECIPES),
        validate_default=True,
        min_length=1,
        description="Recipes and TOML files to compare, separated by commas (as a flag, by spaces).",
    )
    seeds: int = Field(3, ge=1, lt=2**32, description="Number of seeds per recipe (1…N).")

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
                raise ValueError(f"{name} is listed more than once")
        return names


class SearchSettings(ClusterSettings):
    """A space of recipes to search."""

    space: CliPositionalArg[Path] = Field(description="TOML file with ranges of a recipe's fields.")
    trials: int = Field(20, ge=1, le=100_000, description="Number of trials, those of an interrupted search included.")
    seed: int = Field(1, ge=0, lt=2**32, description="Random seed of the weights, the order and the augmentation.")
    to: Path | None = Field(None, description="File for the best recipe; SPACE.toml in the state folder by default.")


class ExportSettings(ModelSettings):
    """Model and file."""

    to: Path = Field(description="The file to write; - for the standard output.")
    version: int | None = Field(None, ge=1, description="Version of the registered model; the champion by default.")


class PromoteSettings(GateSettings):
    """Version to promote."""

    version: int | None = Field(None, ge=1, description="Version to judge and promote; the newest by default.")


class PublishSettings(DeliverySettings, GateSettings):
    """Requirements for a champion, and reports to MLflow."""


class RollbackSettings(ModelSettings):
    """Swap champion and previous; run again to undo."""

    yes: bool = Field(False, description="Serve a model of the bundled tenth in place of one of the full set.")


class BackupSettings(Settings):
    """The archive to write."""

    to: Path = Field(description="The archive to write; - for the standard output.")


class RestoreSettings(Settings):
    """The archive to read."""

    file: Path = Field(
        validation_alias=AliasChoices("from"), description="The archive to read; - for the standard input."
    )
    yes: bool = Field(False, description="Replace runs, models and checkpoints that are there.")


class MigrateSettings(Settings):
    """The present and the new place of a registry."""

    source: str = Field(
        validation_alias=AliasChoices("from"), description="The database of the runs: sqlite:///PATH, as in `backup`."
    )
    to: str = Field(description="The new database: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE.")
    artifacts: str = Field(description="The new place of the artifacts: s3://BUCKET/FOLDER, or a folder.")


COMMAND_SETTINGS: tuple[type[Settings], ...] = (
    TrainSettings,
    CompareSettings,
    SearchSettings,
    ExportSettings,
    PromoteSettings,
    PublishSettings,
    RollbackSettings,
    BackupSettings,
    RestoreSettings,
    MigrateSettings,
)


def variable(field: str) -> str:
    """The environment variable of a field."""
    return field.upper() if field in ("mnist_dir", "dataset_dir") else f"{PREFIX}{field.upper()}"
