"""The place of the embedded store's artifacts, which its database holds as absolute addresses."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.tracking.connection import EXPERIMENT

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(database: Path, artifacts: Path) -> None:
    """Correct the addresses in a database whose folder of artifacts has moved to `artifacts`.

    A database of a server is left alone: its addresses name the server.
    """
    now = artifacts.resolve().as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
        before = found[0] if found else ""
        if before == now or not before.startswith("file:"):
            return
        for table, column in ADDRESSES:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )
