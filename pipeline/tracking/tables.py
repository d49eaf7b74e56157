"""The rows of MLflow's databases, copied and compared by reflection: no table and no column is named here."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.dialects.postgresql import REGCLASS

BATCH = 1000  # rows

Pair = tuple[Table, Table]  # the same table in the source and in the target
Rewrite = Callable[[Any], Any]  # of one value
Row = dict[str, Any]


def shared(source: Connection, target: Connection) -> tuple[list[Pair], list[str]]:
    """The tables of both databases, each after those that it refers to, and the names of those of the source alone."""
    before, after = MetaData(), MetaData()
    before.reflect(source)
    after.reflect(target)
    pairs = [
        (before.tables[table.name], table)
        for table in after.sorted_tables
        if table.name in before.tables and not _is_of_alembic(table.name)
    ]
    for old, new in pairs:
        for column in _stored(new):
            if isinstance(column.type, sa.Boolean):
                old.c[column.name].type = sa.Boolean()  # SQLite stores a number
            elif isinstance(column.type, sa.JSON):
                column.type.none_as_null = True
    alone = [table.name for table in before.tables.values() if table.name not in after.tables]
    return pairs, [name for name in alone if not _is_of_alembic(name)]


def count(connection: Connection, table: Table) -> int:
    """The number of rows."""
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def digests(connection: Connection, pair: Pair, table: Table, rewrite: Rewrite | None = None) -> set[bytes]:
    """The digest of each row: equal in both databases if all values are."""
    columns, documents = _stored(pair[1]), _documents(pair[1])
    found = set()
    for row in _rows(connection, pair, table, rewrite):
        values = [row[column.name] for column in columns]
        for index, column in enumerate(columns):
            if column.name in documents and values[index] is not None:
                values[index] = ["JSON", json.loads(values[index])]  # spaces and order may differ
        text = json.dumps(values, default=_plain, sort_keys=True)
        found.add(hashlib.sha256(text.encode()).digest()[:16])
    return found


def checksum(found: set[bytes]) -> str:
    """One SHA-256, hexadecimal, of the digests of rows, which have no order."""
    return hashlib.sha256(b"".join(sorted(found))).hexdigest()


def copy(source: Connection, target: Connection, pair: Pair, rewrite: Rewrite) -> None:
    """Insert the rows of a table of the source into that of the target, and let its numbers continue after them."""
    old, new = pair
    documents, batch = _documents(new), []
    for row in _rows(source, pair, old, rewrite):
        for name in documents:
            if row[name] is not None:
                row[name] = sa.JSON.NULL if row[name] == "null" else json.loads(row[name])
        batch.append(row)
        if len(batch) == BATCH:
            target.execute(new.insert(), batch)
            batch = []
    if batch:
        target.execute(new.insert(), batch)
    if target.dialect.name == "postgresql":
        _continue_numbers(target, new)


def _continue_numbers(target: Connection, table: Table) -> None:
    """Set the sequence of each numbered column past its largest number: a row inserted with a number does not."""
    for column in table.primary_key.columns:
        if isinstance(column.type, sa.Integer):
            sequence = target.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name)))
            if sequence:
                largest = sa.func.greatest(sa.func.max(column), 1)  # a sequence refuses 0
                target.execute(sa.select(sa.func.setval(sa.cast(sequence, REGCLASS), largest)))


def _rows(connection: Connection, pair: Pair, table: Table, rewrite: Rewrite | None) -> Iterator[Row]:
    """Stream the rows of a table of one side; a JSON document stays text, in which `null` differs from no value."""
    names, documents = [column.name for column in _stored(pair[1])], _documents(pair[1])
    columns = [sa.cast(table.c[name], sa.Text).label(name) if name in documents else table.c[name] for name in names]
    found = connection.execute(sa.select(*columns), execution_options={"yield_per": BATCH})
    for values in found:
        yield dict(zip(names, map(rewrite, values) if rewrite else values, strict=True))


def _stored(table: Table) -> list[sa.Column[Any]]:
    """The columns that can be written: a database computes the others."""
    return [column for column in table.columns if column.computed is None]


def _documents(table: Table) -> set[str]:
    return {column.name for column in table.columns if isinstance(column.type, sa.JSON)}


def _is_of_alembic(name: str) -> bool:
    return name.startswith("alembic_")


def _plain(value: object) -> str:
    """Bytes, dates and decimals as text."""
    return value.hex() if isinstance(value, bytes) else str(value)
