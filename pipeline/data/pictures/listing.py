"""The files of a folder of pictures, by class and split; nothing is decoded.

The layout is that of torchvision's `ImageFolder`: one folder for each class, or `train/`, `validation/` and `test/`
with one folder for each class.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.data.names import LONGEST, DataError, joined

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
FEWEST_CLASSES, MOST_CLASSES = 2, 100
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # as are names that begin with a dot


@dataclass(frozen=True)
class File:
    """A file that should be a picture.

    Attributes:
        path: relative to the folder, with `/`.
        label: number of its class; -1 if it lies outside the classes.
        split: `train`, `validation` or `test`; always `train` in a folder without splits.
        bytes: its size.
        modified: time of its last change, in nanoseconds.
        problem: reason not to read it, as a clause; empty if there is none.
    """

    path: str
    label: int
    split: str
    bytes: int
    modified: int
    problem: str


@dataclass(frozen=True)
class Listing:
    """The content of a folder.

    Attributes:
        folder: its path.
        classes: names of the folders of the classes, sorted.
        splits: those that the folder has; `train` alone means that it is not split yet.
        files: all files of the classes, by split, class and path, and links to folders in place of classes.
        loose: pictures outside the classes, which are left out; paths relative to the folder.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    files: tuple[File, ...]
    loose: tuple[str, ...]


def scan(folder: Path) -> Listing:
    """List the files of a folder.

    Raises:
        DataError: it is no folder, or its folders are not 2 to 100 classes with names that differ.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except PermissionError as error:
        raise _closed(folder, error) from None
    except OSError:
        is_folder = False
    if not is_folder:
        raise DataError(f"{folder} is not a folder: name one that holds a folder of pictures for each class.")
    root = folder.resolve()
    places = _places(folder, root)
    found = {split: _entries(place) for split, place in places.items()}
    folders = {split: [entry for entry in entries if _is_folder(entry)] for split, entries in found.items()}
    others = [(split, entry) for split, entries in found.items() for entry in entries if not _is_folder(entry)]
    loose = tuple(entry.relative_to(root).as_posix() for _, entry in others if _is_named_as_picture(entry))
    files = [_file(entry, root, -1, split) for split, entry in others if entry.is_symlink() and entry.is_dir()]
    classes = _classes(folder, folders, loose, [link.path for link in files])
    for split, members in folders.items():
        for member in sorted(members, key=_name):
            files += _walk(member, root, classes.index(_name(member)), split)
    return Listing(folder, classes, tuple(places), tuple(files), loose)


def _places(folder: Path, root: Path) -> dict[str, Path]:
    """Return the folder of each split that is there, or the root alone as `train`."""
    names = [entry.name for entry in _entries(root) if _is_folder(entry)]
    splits = [split for split in SPLITS if split in names]
    if not any(_is_folder(entry) for split in splits for entry in _entries(root / split)):
        return {TRAIN: root}
    others = [name for name in names if name not in SPLITS]
    if TRAIN not in splits:
        raise DataError(f"{folder} has {splits[0]}/ but no train/: put the training pictures there, a folder a class.")
    if others:
        raise DataError(
            f"{folder} has {others[0]}/ next to train/: only validation/ and test/ may stand there; "
            f"rename {others[0]}/ to one of them, or move it away."
        )
    return {split: root / split for split in splits}


def _classes(folder: Path, folders: dict[str, list[Path]], loose: tuple[str, ...], links: list[str]) -> tuple[str, ...]:
    every = [_name(member) for members in folders.values() for member in members]
    names = sorted(set(every))
    remedy = "put the pictures of each class into a folder of its own, named after the class"
    if not names and links:
        raise DataError(f"{folder} has links in place of classes ({joined(links)}): replace them by the folders.")
    if not names and loose:
        raise DataError(f"{folder} has pictures outside folders of classes ({joined(loose)}): {remedy}.")
    if not names:
        raise DataError(f"{folder} has no classes: {remedy}.")
    if len(names) < FEWEST_CLASSES:
        raise DataError(f"{folder} has one class, {names[0]!r}; a classifier needs two or more: {remedy}.")
    if len(names) > MOST_CLASSES:
        raise DataError(f"{folder} has {len(names)} classes; expected at most {MOST_CLASSES}: join or remove some.")
    for name in names:
        if not name.isprintable() or len(name) > LONGEST:
            raise DataError(
                f"{folder} has a class with the name {name!r}: rename it to at most {LONGEST} printable characters."
            )
    _check_case(folder, names)
    for split, members in folders.items():
        repeated = [name for name, count in Counter(map(_name, members)).items() if count > 1]
        if repeated:
            raise DataError(f"{folder} has two folders {repeated[0]!r} with equal names: rename one of them.")
        missing = sorted(set(names) - set(map(_name, members)))
        if missing:
            raise DataError(
                f"The class {missing[0]!r} is not in {folder / split}: add its folder, or remove the class."
            )
    return tuple(names)


def _check_case(folder: Path, names: list[str]) -> None:
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(f"{folder} has the classes {other!r} and {name!r}: rename one; they differ by case alone.")


def _walk(place: Path, root: Path, label: int, split: str) -> Iterator[File]:
    for entry in _entries(place):
        if _is_folder(entry):
            yield from _walk(entry, root, label, split)
        else:
            yield _file(entry, root, label, split)


def _file(entry: Path, root: Path, label: int, split: str) -> File:
    problem, size, modified = "", 0, 0
    target = Path(os.path.realpath(entry))  # never raises, unlike `resolve` on a circle of links
    try:
        status = target.stat()
        size, modified = status.st_size, status.st_mtime_ns
        if entry.is_symlink() and not target.is_relative_to(root):
            problem = "is a link that leads out of the folder"
        elif stat.S_ISDIR(status.st_mode):
            problem = "is a link to a folder"
        elif not stat.S_ISREG(status.st_mode):
            problem = "is not a file"
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
    return File(entry.relative_to(root).as_posix(), label, split, size, modified, problem)


def _entries(place: Path) -> list[Path]:
    try:
        entries = sorted(place.iterdir())
    except OSError as error:
        raise _closed(place, error) from None
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in IGNORED]


def _closed(place: Path, error: OSError) -> DataError:
    return DataError(f"{place} cannot be read ({error.strerror}): correct its owner or its mode.")


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink()


def _is_named_as_picture(entry: Path) -> bool:
    return entry.suffix.lower() in Image.registered_extensions()


def _name(entry: Path) -> str:
    """The name of a folder in the form that most systems write: macOS writes an umlaut as two characters."""
    return unicodedata.normalize("NFC", entry.name)
