"""Names of data sets; importing this takes no time, because settings need it before torch is imported."""

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import PipelineError

NAMES = ("mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-balanced", "emnist-letters")
DIGITS = "digits"  # the registered model of MNIST
FOLDER = "folder:"  # precedes the path of a folder of pictures
LONGEST = 100  # characters of a name


class DataError(PipelineError):
    """The data set is unusable; the message is one sentence with the remedy."""

    exit_code = 2


def folder_of(choice: str) -> Path | None:
    """The folder of pictures that the setting `dataset` names, or None if it names a published data set."""
    return Path(choice.removeprefix(FOLDER)).expanduser() if choice.startswith(FOLDER) else None


def name_of(choice: str) -> str:
    """The name of the data set that the setting `dataset` names; a folder's name is its own, made safe.

    Raises:
        DataError: there is no such data set.
    """
    folder = folder_of(choice)
    if folder is None:
        if choice not in NAMES:
            near = [FOLDER + choice] if Path(choice).is_dir() else difflib.get_close_matches(choice, NAMES, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise DataError(f"there is no data set of that name{meant}; there are {', '.join(NAMES)}, and {FOLDER}PATH")
        return choice
    if choice == FOLDER:
        raise DataError(f"it names no folder: write {FOLDER}PATH")
    safe = re.sub(r"[^a-z0-9._]+", "-", folder.resolve().name.lower()).strip("-._")[:LONGEST]
    if not safe:
        raise DataError("the folder's name has no letter from a to z and no digit; rename the folder")
    return f"{safe}-folder" if safe in (*NAMES, DIGITS) else safe


def model_of(dataset: str) -> str:
    """The name of the registered model of a data set."""
    return DIGITS if dataset == "mnist" else dataset


def flag_of(model: str) -> str:
    """The flag that a command for a registered model needs, with a space before it; none for MNIST."""
    if model == DIGITS:
        return ""
    return f" --dataset {model if model in NAMES else f'{FOLDER}…'}"


def joined(items: Sequence[str], most: int = 10) -> str:
    """Join the first names for a sentence; one with line ends or other control characters is quoted."""
    shown = [item if item.isprintable() else repr(item) for item in items[:most]]
    return ", ".join(shown) + (f" and {len(items) - most:,} more" if len(items) > most else "")


if __name__ == "__main__":  # for the Makefile: which model to serve
    try:
        print(model_of(name_of(sys.argv[1])))
    except DataError as error:
        sys.exit(f"{sys.argv[1]}: {error}.")
