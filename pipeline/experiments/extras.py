"""Modules that need a package of an extra: they are imported by the commands that use them alone."""

import importlib
from types import ModuleType

from pipeline import PipelineError


class MissingError(PipelineError):
    """A package of an extra is not installed; the message is one sentence with the remedy."""


def load(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of this package.

    Args:
        module: its name within `pipeline.experiments`.
        extra: whose packages it imports.
        purpose: the setting or command that needs them, for the message.

    Raises:
        MissingError: one of the packages is not installed.
    """
    try:
        return importlib.import_module(f"pipeline.experiments.{module}")
    except ModuleNotFoundError as error:
        raise MissingError(
            f"{purpose} needs the package {error.name}, which is not installed: run `python -m pip install --no-deps "
            f"-r requirements/{extra}.txt`."
        ) from None


def load_cluster() -> ModuleType:
    """The module of clusters: it imports Ray, which takes seconds.

    Raises:
        MissingError: Ray is not installed.
    """
    return load("cluster", "cluster", "PIPELINE_CLUSTER")
