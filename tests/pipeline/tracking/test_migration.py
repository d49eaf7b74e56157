"""The move of a registry to another database, here to SQLite; tests/scale moves one to PostgreSQL and S3."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.pipeline.conftest import Done

from .filled import fill

pytestmark = pytest.mark.slow


Migrate = Callable[[Path, str, str], Done]


@pytest.fixture
def migrate(command: Callable[..., Done]) -> Migrate:
    """Run the command in this process."""

    def run(source: Path, to: str, artifacts: str) -> Done:
        return command("migrate", "--from", f"sqlite:///{source}", "--to", to, "--artifacts", artifacts)

    return run


def last_line(done: Done) -> str:
    return done.log[-1]


def rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def everything(database: Path) -> dict[str, list[tuple[object, ...]]]:
    names = [str(name) for (name,) in rows(database, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: sorted(rows(database, f"SELECT * FROM {name}"), key=str) for name in names}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def source(state: Path) -> Path:
    """The database of an embedded store: a run with artifacts, a version with an alias, and a row in every table."""
    client = MlflowClient(f"sqlite:///{state}/mlflow.db")
    experiment = client.create_experiment("digits", (state / "artifacts").as_uri())
    run = client.create_run(experiment, run_name="one").info.run_id
    client.log_metric(run, "loss", 0.1, step=3)
    client.log_metric(run, "loss", float("nan"), step=4)
    client.log_param(run, "network", "small")
    client.log_text(run, "whole", "notes/text.txt")
    client.log_text(run, "", "empty.txt")
    client.create_registered_model("digits")
    client.create_model_version("digits", f"{(state / 'artifacts').as_uri()}/{run}/artifacts/notes", run)
    client.set_registered_model_alias("digits", "champion", "1")
    fill(state / "mlflow.db")
    return state / "mlflow.db"


@pytest.fixture
def target(tmp_path: Path, empty_store: Path) -> Path:
    """The database of a new registry."""
    (tmp_path / "team").mkdir()
    return Path(shutil.copy(empty_store, tmp_path / "team" / "mlflow.db"))


def test_rows_of_every_table_and_all_artifacts_are_moved(migrate: Migrate, source: Path, target: Path) -> None:
    before = everything(source)
    done = migrate(source, f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert done.returncode == 0, done.log
    assert everything(source) == before
    after = everything(target)
    folder = (source.parent / "artifacts").as_uri()
    for table, expected in before.items():
        if table not in ("alembic_version", "experiments"):
            renamed = [tuple(_renamed(value, folder) for value in row) for row in expected]
            assert after[table] == sorted(renamed, key=str), table
        if expected and table != "alembic_version":
            assert re.search(rf"{table} +│ {len(expected)} +│ {len(expected)} +│ [0-9a-f]{{16}}", done.stdout), table
    assert rows(target, "SELECT artifact_location FROM experiments WHERE name = 'digits'") == [("mlflow-artifacts:/1",)]
    assert contents(target.parent / "artifacts" / "1") == contents(source.parent / "artifacts")
    assert re.search(r"artifacts +│ 2 +│ 2 +│ [0-9a-f]{16}", done.stdout)


def _renamed(value: object, folder: str) -> object:
    return value.replace(folder, "mlflow-artifacts:/1") if isinstance(value, str) else value


def test_second_run_changes_nothing(migrate: Migrate, source: Path, target: Path) -> None:
    places = (f"sqlite:///{target}", str(target.parent / "artifacts"))
    first = migrate(source, *places)
    assert "2 copied now" in last_line(first)
    before = everything(target), contents(target.parent / "artifacts")
    second = migrate(source, *places)
    assert second.returncode == 0
    assert last_line(second).endswith("already: nothing was changed.")
    assert second.stdout == first.stdout
    assert (everything(target), contents(target.parent / "artifacts")) == before


def test_lost_and_damaged_artifacts_are_copied_again(migrate: Migrate, source: Path, target: Path) -> None:
    places = (f"sqlite:///{target}", str(target.parent / "artifacts"))
    migrate(source, *places)
    moved = target.parent / "artifacts" / "1"
    (damaged,) = moved.rglob("text.txt")
    damaged.write_text("w_ole")
    done = migrate(source, *places)
    assert "1 copied now" in last_line(done)
    assert contents(moved) == contents(source.parent / "artifacts")


def test_new_database_gets_its_tables(migrate: Migrate, source: Path, tmp_path: Path) -> None:
    done = migrate(source, f"sqlite:///{tmp_path}/new.db", str(tmp_path / "new"))
    assert done.returncode == 0, done.log
    assert rows(tmp_path / "new.db", "SELECT count(*) FROM metrics") == rows(source, "SELECT count(*) FROM metrics")


def test_artifacts_of_a_server_keep_their_addresses(migrate: Migrate, source: Path, target: Path) -> None:
    folder = (source.parent / "artifacts").as_uri()
    change(
        source, f"UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1' WHERE artifact_location = '{folder}'"
    )
    change(source, f"UPDATE runs SET artifact_uri = replace(artifact_uri, '{folder}', 'mlflow-artifacts:/1')")
    before = rows(source, "SELECT artifact_uri FROM runs")
    (source.parent / "artifacts").rename(source.parent / "1")
    (source.parent / "artifacts").mkdir()
    (source.parent / "1").rename(source.parent / "artifacts" / "1")
    done = migrate(source, f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert done.returncode == 0, done.log
    assert rows(target, "SELECT artifact_uri FROM runs") == before
    assert contents(target.parent / "artifacts") == contents(source.parent / "artifacts")


def test_artifacts_of_a_machine_and_of_a_server_are_kept_apart(migrate: Migrate, source: Path, target: Path) -> None:
    artifacts = source.parent / "artifacts"
    before = contents(artifacts)
    other = MlflowClient(f"sqlite:///{source}").create_experiment("of a server", "mlflow-artifacts:/7")
    change(source, f"UPDATE experiments SET artifact_location = 'mlflow-artifacts:/7' WHERE experiment_id = {other}")
    (artifacts / "7").mkdir()
    (artifacts / "7" / "theirs.txt").write_text("of a server")
    done = migrate(source, f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert done.returncode == 0, done.log
    copied = contents(target.parent / "artifacts")
    assert copied["7/theirs.txt"] == b"of a server"
    assert {f"1/{path}" for path in before} <= copied.keys()


def test_moved_store_is_found(migrate: Migrate, source: Path, target: Path, tmp_path: Path) -> None:
    moved = source.parent.rename(tmp_path / "moved")
    done = migrate(moved / "mlflow.db", f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert done.returncode == 0, done.log
    assert contents(target.parent / "artifacts" / "1") == contents(moved / "artifacts")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE registered_model_aliases SET alias = 'previous'",
        "DELETE FROM params",
        "UPDATE evaluation_dataset_records SET tags = 'null' WHERE tags IS NULL",
    ],
)
def test_registry_that_has_changed_since_is_not_touched(
    migrate: Migrate, source: Path, target: Path, statement: str
) -> None:
    places = (f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert migrate(source, *places).returncode == 0
    change(target, statement)
    before = everything(target)
    refused = migrate(source, *places)
    assert refused.returncode == 1
    assert "has changed since it was moved" in last_line(refused)
    assert everything(target) == before


def test_registry_in_use_is_kept_when_the_migration_is_repeated(migrate: Migrate, source: Path, target: Path) -> None:
    places = (f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert migrate(source, *places).returncode == 0
    run = MlflowClient(f"sqlite:///{target}").create_run("0").info.run_id
    assert last_line(migrate(source, *places)).endswith("already: nothing was changed.")
    assert MlflowClient(f"sqlite:///{target}").get_run(run)


def test_unequal_schemas_are_refused(migrate: Migrate, source: Path, target: Path) -> None:
    change(target, "UPDATE alembic_version SET version_num = 'cbc13b556ace'")
    before = everything(target)
    refused = migrate(source, f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert refused.returncode == 1
    assert "has cbc13b556ace: back both up, and run `mlflow db upgrade ADDRESS`" in last_line(refused)
    assert everything(target) == before
    assert not (target.parent / "artifacts").exists()


def test_database_of_another_application_is_refused(migrate: Migrate, source: Path, tmp_path: Path) -> None:
    change(tmp_path / "other.db", "CREATE TABLE users (name TEXT)")
    refused = migrate(source, f"sqlite:///{tmp_path}/other.db", str(tmp_path / "new"))
    assert "has tables of another application (users): create an empty database" in last_line(refused)
    assert everything(tmp_path / "other.db") == {"users": []}


def test_missing_artifacts_are_named(migrate: Migrate, source: Path, target: Path) -> None:
    shutil.rmtree(source.parent / "artifacts")
    before = everything(target)
    refused = migrate(source, f"sqlite:///{target}", str(target.parent / "artifacts"))
    assert refused.returncode == 1
    assert f"experiment digits are not in {source.parent}/artifacts: move or link them there" in last_line(refused)
    assert everything(target) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no database", "file is not a database"), (b"", "holds no registry of MLflow"), (None, "does not exist")],
)
def test_source_that_is_no_registry_is_refused(
    migrate: Migrate, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "mlflow.db").write_bytes(content)
    refused = migrate(tmp_path / "mlflow.db", f"sqlite:///{tmp_path}/new.db", str(tmp_path / "new"))
    assert refused.returncode == 1
    assert reason in last_line(refused)
    assert not (tmp_path / "new.db").exists() or everything(tmp_path / "new.db") == {}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql+psycopg://digits:s3cret@home@127.0.0.1/digits", "in the password %40 for @"),
        ("postgresql+psycopg://digits:s3cret@s3:cret@127.0.0.1:1/digits", "in the password %40 for @"),
        ("mysql://digits:s3cret@127.0.0.1/digits", "is not the address of a database"),
        ("nowhere", "is not the address of a database"),
        (
            "postgresql+psycopg2://digits:s3cret@127.0.0.1/digits",
            "needs the package psycopg2: write postgresql",
        ),
    ],
)
def test_wrong_address_is_refused_without_its_password(
    migrate: Migrate, source: Path, address: str, reason: str, tmp_path: Path
) -> None:
    refused = migrate(source, address, str(tmp_path / "new"))
    assert refused.returncode == 1
    assert reason in last_line(refused)
    assert len(refused.log) == 1
    assert "cret" not in refused.log[0] + refused.stdout


def test_place_for_artifacts_that_cannot_be_written_is_named(
    migrate: Migrate, source: Path, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    before = everything(target)
    refused = migrate(source, f"sqlite:///{target}", str(tmp_path / "file" / "folder"))
    assert refused.returncode == 1
    assert "Artifacts cannot be copied to file://" in last_line(refused)
    assert everything(target) == before


def test_restored_store_and_migrated_one_have_equal_checksums(
    migrate: Migrate, source: Path, target: Path, tmp_path: Path
) -> None:
    """The checksums follow the content alone: another folder and other ids of files do not matter."""
    shutil.copytree(source.parent, tmp_path / "copy")
    first = migrate(source, f"sqlite:///{target}", str(target.parent / "artifacts"))
    second = migrate(tmp_path / "copy" / "mlflow.db", f"sqlite:///{tmp_path}/new.db", str(tmp_path / "new"))
    assert first.stdout == second.stdout
