"""Settings of a command from its flags and the environment; a wrong one is refused in one sentence."""

import argparse
import difflib
import os
import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from pipeline.settings import COMMAND_SETTINGS, FLAGS_ONLY, PREFIX, RENAMED, Settings, WrongSettingError, variable

METAVARS = {
    "Path": "PATH", "str": "NAME", "int": "N", "float": "X", "int | None": "N", "float | None": "X",
    "tuple[str,...]": "RECIPE",
}  # fmt: skip
Kind = TypeVar("Kind", bound=Settings)


def read(kind: type[Kind], arguments: list[str], command: str) -> Kind:
    """Settings from flags, then environment variables, then defaults.

    Raises:
        WrongSettingError: one of them has no such name or value.
    """
    _refuse_unknown_variables()
    for former, name in RENAMED.items():
        arguments = [re.sub(rf"^--{former}(?==|$)", f"--{name}", argument) for argument in arguments]
    try:
        kind.model_config["cli_prog_name"] = f"python -m pipeline {command}"
        return CliApp.run(kind, arguments, CliSettingsSource(kind, formatter_class=_Help))
    except ValidationError as error:
        raise WrongSettingError(" ".join(map(_explain, error.errors()))) from None
    except SettingsError as error:
        raise WrongSettingError(f"{str(error).removeprefix('error parsing CLI: ')}; see --help.") from None


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows a word for the type of a flag's value, and no variables for `FLAGS_ONLY`."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        names = "|".join(["FROM", *map(variable, FLAGS_ONLY)])
        return re.sub(rf" \[env: (?:{names})\]", "", super()._get_help_string(action) or "")

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if isinstance(action.metavar, str):
            action.metavar = METAVARS.get(action.metavar, action.metavar)
        return super()._metavar_formatter(action, default_metavar)


def _explain(problem: ErrorDetails) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else "settings"
    what = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"--{field} is missing: give it a value (see --help)."
    if problem["type"] == "extra_forbidden":
        return f"--{field.replace('_', '-')} is not a setting of this command; see --help."
    return f"{variable(field)} (--{field.replace('_', '-')}) cannot be {problem['input']!r}: {what}."


def _refuse_unknown_variables() -> None:
    known = {variable(field) for kind in COMMAND_SETTINGS for field in kind.model_fields if field not in FLAGS_ONLY}
    former = {variable(field) for field in RENAMED}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known | former:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else f"the settings are: {', '.join(sorted(known))}."
            raise WrongSettingError(f"There is no setting {name}: {hint}")
