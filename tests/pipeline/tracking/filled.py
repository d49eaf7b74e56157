"""A registry of MLflow with rows in every table, and with values that databases store differently."""

import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ALLOWED = {
    "lifecycle_stage": "active",
    "status": "FINISHED",
    "source_type": "LOCAL",
    "workspace": "default",
    "artifact_location": "s3://elsewhere/folder",
}
VALUES: dict[type, Any] = {
    bool: True,
    int: 7,
    float: 0.1,
    bytes: b"\x00\xff",
    str: "ä%' \\",
    datetime.date: datetime.date(2026, 11, 30),
    datetime.datetime: datetime.datetime(2026, 11, 30, 1, 2, 3),
}
DOCUMENT = {"b": [None, 0.1], "a": "ä"}


def fill(database: Path) -> set[str]:
    """Add a row to every table, which refers to those of the others, and return the names of the tables.

    A table with JSON gets two more: one without a value, and one with JSON's own null.
    """
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(database)))
    metadata = sa.MetaData()
    metadata.reflect(engine)
    tables = [table for table in metadata.sorted_tables if not table.name.startswith("alembic_")]
    with engine.begin() as connection:
        for table in tables:
            columns = [column for column in table.columns if column.computed is None]
            row = {column.name: _value(column) for column in columns}
            connection.execute(table.insert().values(row))
            documents = [column.name for column in columns if isinstance(column.type, sa.JSON) and column.nullable]
            unique = [column.name for column in table.primary_key.columns] + ["input_hash"] * ("input_hash" in row)
            for number, nothing in enumerate((sa.null(), sa.JSON.NULL) if documents else ()):
                other = dict.fromkeys(unique, str(number)) | dict.fromkeys(documents, nothing)
                connection.execute(table.insert().values(row | other))
    engine.dispose()
    return {table.name for table in tables}


def _value(column: sa.Column[Any]) -> object:
    if isinstance(column.type, sa.JSON):
        return DOCUMENT
    value = VALUES[column.type.python_type]
    return ALLOWED.get(column.name, value) if isinstance(value, str) else value
