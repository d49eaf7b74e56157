"""The embedded store: a copy of its database, and the place of its artifacts, which it holds as absolute addresses."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline import PipelineError

log = logging.getLogger(__name__)

EXPERIMENT = "digits"
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


class MovedError(PipelineError):
    """The database was moved without its artifacts; the message is one sentence with the remedy."""


class UnreadableError(PipelineError):
    """The database cannot be copied; the message is one sentence with the remedy."""


def snapshot(database: Path, to: Path) -> Path:
    """Copy a database as of one moment, by SQLite's online backup: writers wait for it, and continue.

    Raises:
        UnreadableError: the database is damaged, or is none.
    """
    try:
        with (
            closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as source,
            closing(sqlite3.connect(to)) as copied,
        ):
            source.backup(copied)
            ((result,), *_) = copied.execute("PRAGMA quick_check(1)")
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        raise UnreadableError(f"The database {database} cannot be copied ({result}): restore an earlier backup.")
    return to


def follow(database: Path, artifacts: Path) -> None:
    """Correct the addresses of a store that was moved or copied as a whole, which the names of its folders prove.

    Raises:
        MovedError: the artifacts are neither where they were, nor in `artifacts`.
    """
    with closing(sqlite3.connect(database)) as connection:
        before = _address(connection)
        if not before.startswith("file:") or before == artifacts.resolve().as_uri():
            return
        runs = connection.execute("SELECT artifact_uri FROM runs")
        models = connection.execute("SELECT artifact_location FROM logged_models")
        named = [address for (address,) in (*runs, *models) if address.startswith(f"{before}/")]
    # A folder is named by a random number of 128 bits: one of them in the new place is proof.
    if not named or any((artifacts / _path(address).relative_to(_path(before))).exists() for address in named):
        relocate(database, artifacts)
        log.info("The runs have moved from %s to %s.", _path(before).parent, artifacts.resolve().parent)
    elif not _path(before).exists():
        raise MovedError(
            f"The artifacts of the runs in {database} are neither in {_path(before)} nor in {artifacts}: move them to "
            f"{artifacts}, or choose another --state-dir."
        )


def relocate(database: Path, artifacts: Path) -> None:
    """Correct the addresses in a database whose folder of artifacts has moved to `artifacts`.

    A database of a server is left alone: its addresses name the server.
    """
    now = artifacts.resolve().as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        before = _address(connection)
        if before == now or not before.startswith("file:"):
            return
        for table, column in ADDRESSES:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )


def _address(connection: sqlite3.Connection) -> str:
    found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
    return str(found[0]) if found else ""


def _path(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))
