"""The move of a registry from an SQLite file to another database, and of its artifacts to another place.

The artifacts come first, because rows refer to them. All rows are one transaction, which ends only if their digests are
equal on both sides. So an interrupted migration leaves the target's registry empty, and can be repeated.
"""

import logging
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import sqlalchemy as sa
from alembic.migration import MigrationContext
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from rich.console import Console
from rich.table import Table as Listing
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from pipeline import PipelineError
from pipeline.settings import MigrateSettings
from pipeline.tracking import artifacts, tables
from pipeline.tracking.connection import one_line, silence
from pipeline.tracking.location import MovedError, follow, snapshot

log = logging.getLogger(__name__)

SERVER = "mlflow-artifacts:"  # the scheme of addresses that a server resolves
# All that MLflow puts into a new database: one row each.
OF_A_NEW_REGISTRY = ("experiments", "workspaces")


class MigrationError(PipelineError):
    """A registry cannot be moved; the message is one sentence with the remedy."""


def migrate(settings: MigrateSettings) -> None:
    """Move runs, models and artifacts, and prove by counts and checksums that nothing is lost.

    Raises:
        MigrationError: one side cannot be used, or the target has another content.
        ArtifactError: the artifacts cannot be copied.
    """
    silence()
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    database, target = _file(settings.source), _engine(settings.to)
    store = artifacts.open_store(settings.artifacts)
    near = database.parent / "artifacts"
    with tempfile.TemporaryDirectory() as folder:
        copied = snapshot(database, Path(folder) / "mlflow.db")
        try:
            follow(copied, near)
        except sqlite3.Error as error:
            raise MigrationError(
                f"{database} holds no registry of MLflow ({error}): name the database of the runs with --from."
            ) from None
        except MovedError:
            raise MigrationError(
                f"The artifacts of {database} are not in {near}: move them there, and repeat."
            ) from None
        source = sa.create_engine(sa.URL.create("sqlite", database=str(copied)))
        try:
            with _opened(source, database) as before:
                _require_same_schema(before, target, database)
                addresses, folders = _addresses(before, near)
                with _opened(target, _name(target)) as after:
                    rows = _Rows(before, addresses, after)
                    rows.require_room(after)
                files = artifacts.copy(folders, store)  # for hours, perhaps: no transaction waits for it
                with _opened(target, _name(target)) as after:
                    moved = rows.move(after)
        finally:
            source.dispose()
            target.dispose()
    _report(moved, files)
    new = sum(each.copied for each in files)
    if rows.were_moved or new:
        log.info("The registry is in %s, its artifacts in %s (%d copied now).", _name(target), store.artifact_uri, new)
    else:
        log.info("Everything is in %s and %s already: nothing was changed.", _name(target), store.artifact_uri)


class _Rows:
    """The rows of a registry, and their move within one transaction of the target."""

    def __init__(self, source: Connection, addresses: dict[str, str], target: Connection) -> None:
        self._source, self._addresses = source, addresses
        self._pairs, alone = tables.shared(source, target)
        self.were_moved = False
        if alone:
            log.warning("Tables that the target does not have are left out: %s.", ", ".join(sorted(alone)))

    def require_room(self, target: Connection) -> None:
        """Refuse a target with other rows, before anything is copied.

        Raises:
            MigrationError: as said.
        """
        if self._is_new(target):
            return
        for pair in self._pairs:
            wanted, found = self._digests(target, pair)
            if wanted - found:
                raise MigrationError(
                    f"{_name(target.engine)} holds another registry, or has changed since it was moved: "
                    f"{len(wanted - found)} of {len(wanted)} rows of {pair[0].name} are not in it. Choose an empty "
                    "database."
                )

    def move(self, target: Connection) -> dict[str, tuple[int, int, str]]:
        """Copy all rows unless they are there, and compare.

        Returns:
            By table: rows of the source, rows of these in the target, and the checksum of both.
        """
        if self._is_new(target):
            for _, table in reversed(self._pairs):
                target.execute(table.delete())
            for pair in self._pairs:
                with _named_failure(pair[0].name):
                    tables.copy(self._source, target, pair, self._rewrite)
            self.were_moved = True
        proof = {}
        for pair in self._pairs:
            wanted, found = self._digests(target, pair)
            if wanted - found:
                raise MigrationError(
                    f"{len(wanted - found)} of {len(wanted)} rows of {pair[0].name} read back otherwise: nothing was "
                    "kept. Stop all that writes to the target, and repeat."
                )
            if wanted:
                proof[pair[0].name] = (len(wanted), len(wanted & found), tables.checksum(wanted & found))
        return proof

    def _is_new(self, target: Connection) -> bool:
        counts = {new.name: tables.count(target, new) for _, new in self._pairs}
        return all(number <= (name in OF_A_NEW_REGISTRY) for name, number in counts.items())

    def _digests(self, target: Connection, pair: tables.Pair) -> tuple[set[bytes], set[bytes]]:
        old, new = pair
        wanted = tables.digests(self._source, pair, old, self._rewrite)
        return wanted, tables.digests(target, pair, new)

    def _rewrite(self, value: object) -> object:
        """An address of a folder as an address of the server; any other value as it is."""
        if isinstance(value, str):
            for before, now in self._addresses.items():
                if value == before or value.startswith(f"{before}/"):
                    return now + value[len(before) :]
        return value


def _file(address: str) -> Path:
    """The file of an SQLite address."""
    path = Path(address.removeprefix("sqlite:///"))
    if not address.startswith("sqlite:///"):
        raise MigrationError(
            "--from is not the address of an SQLite file: write sqlite:///PATH, as sqlite:///var/mlflow.db."
        )
    if not path.is_file():
        raise MigrationError(f"{path} does not exist: name the database of the runs with --from.")
    return path


def _engine(address: str) -> Engine:
    """An engine of the target; no error repeats its password."""
    form = "write sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, and in the password %40 for @"
    try:
        url = sa.make_url(address)
        if "@" in (url.host or "") or url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ArgumentError
        return sa.create_engine(url)
    except ModuleNotFoundError as error:
        raise MigrationError(
            f"--to needs the package {error.name}: write postgresql+psycopg://, and install requirements/team.txt "
            "(docs/scaling.md)."
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise MigrationError(f"--to is not the address of a database: {form}.") from None


@contextmanager
def _opened(engine: Engine, name: object) -> Iterator[Connection]:
    """A connection with a transaction that is kept if the block ends well."""
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise MigrationError(f"{name} cannot be opened ({_reason(error)}): start it, or correct the address.") from None
    with connection, connection.begin():
        yield connection


@contextmanager
def _named_failure(table: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise MigrationError(
            f"The target refuses a row of {table} ({_reason(error)}): correct it in the source, and repeat."
        ) from None


def _require_same_schema(source: Connection, target: Engine, database: Path) -> None:
    """Give an empty target MLflow's tables, and refuse another schema than the source has.

    Raises:
        MigrationError: the schemas differ, or the target belongs to another application.
    """
    wanted = MigrationContext.configure(source).get_current_heads()
    with _opened(target, _name(target)) as connection:
        present = sa.inspect(connection).get_table_names()
        schema = MigrationContext.configure(connection).get_current_heads()
    if present and not schema:
        raise MigrationError(
            f"{_name(target)} has tables of another application ({', '.join(sorted(present)[:3])}): create an empty "
            "database, and name it with --to."
        )
    if not present:
        try:
            SqlAlchemyStore(target.url.render_as_string(hide_password=False), f"{SERVER}/").engine.dispose()
        except DBAPIError as error:
            raise MigrationError(
                f"{_name(target)} refuses MLflow's tables ({_reason(error)}): let its user create tables, and repeat."
            ) from None
        with _opened(target, _name(target)) as connection:
            schema = MigrationContext.configure(connection).get_current_heads()
    if wanted != schema:
        raise MigrationError(
            f"{database} has the schema {', '.join(wanted)} and {_name(target)} has "
            f"{', '.join(schema)}: back both up, and run `mlflow db upgrade ADDRESS` with the same MLflow on each."
        )


def _addresses(source: Connection, near: Path) -> tuple[dict[str, str], dict[Path, str]]:
    """New addresses by old ones, and paths in the target by folders of artifacts.

    A server keeps an experiment's artifacts under its number, and so does the target.
    """
    addresses: dict[str, str] = {}
    folders: dict[Path, str] = {}
    experiments = source.execute(
        sa.text(
            "SELECT experiment_id, name, artifact_location, (SELECT count(*) FROM runs WHERE runs.experiment_id = "
            "experiments.experiment_id) FROM experiments WHERE artifact_location > ''"
        )
    )
    for number, name, location, runs in experiments:
        parts = urlsplit(location)
        if parts.scheme in ("", "file"):
            folder, path = Path(url2pathname(parts.path)).resolve(), str(number)
            addresses[location] = f"{SERVER}/{number}"
        elif f"{parts.scheme}:" == SERVER and not parts.netloc:
            path = parts.path.strip("/")
            folder = near.resolve() / path
        else:
            log.warning("The artifacts of the experiment %s stay where they are, at %s.", name, location)
            continue
        if folder.is_dir():
            folders[folder] = path
        elif runs:
            raise MigrationError(
                f"The artifacts of the experiment {name} are not in {folder}: move or link them there, and repeat."
            )
    # An address may begin as another one does.
    return dict(sorted(addresses.items(), key=lambda each: len(each[0]), reverse=True)), folders


def _report(moved: dict[str, tuple[int, int, str]], files: list[artifacts.Artifact]) -> None:
    listed = Listing(title="Moved and compared")
    for heading in ("what", "source", "target", "SHA-256 of both"):
        listed.add_column(heading, overflow="fold")
    for name, (wanted, found, checksum) in moved.items():
        listed.add_row(name, str(wanted), str(found), checksum[:16])
    listed.add_row("artifacts", str(len(files)), str(len(files)), artifacts.checksum(files)[:16])
    Console().print(listed)


def _name(engine: Engine) -> str:
    """The database without its user and password."""
    url = engine.url
    query = {name: value for name, value in url.query.items() if name == "service"}
    return sa.URL.create(
        url.drivername, host=url.host, port=url.port, database=url.database, query=query
    ).render_as_string()


def _reason(error: DBAPIError) -> str:
    return one_line(error.orig)[:300]
