"""The move of a registry from one machine to PostgreSQL and S3, with the faults that a team meets."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.pipeline.tracking.filled import fill as fill_every_table
from tests.processes import ROOT, running, wait_until

from .servers import THROUGH_THE_SERVER, Postgres, s3_server, team_server
from .store import FILES, MODEL, fill

pytestmark = pytest.mark.scale

RUNS, VERSIONS = 1000, 50
FEWER = 100


@pytest.fixture
def filled(tmp_path: Path, empty_store: Path) -> Path:
    """A registry with 1,000 runs, 50 versions and 5,000 artifacts."""
    return registry_of(tmp_path / "filled", empty_store, RUNS, VERSIONS)


@pytest.fixture(scope="module")
def fewer(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A registry with 100 runs and 500 artifacts."""
    return registry_of(tmp_path_factory.mktemp("fewer") / "registry", empty_store, FEWER, 5)


@pytest.fixture
def small(tmp_path: Path, empty_store: Path) -> Path:
    return registry_of(tmp_path / "small", empty_store, 2, 2)


def registry_of(folder: Path, empty_store: Path, runs: int, versions: int) -> Path:
    folder.mkdir()
    database = Path(shutil.copy(empty_store, folder / "mlflow.db"))
    fill(database, runs, versions)
    return database


def command(source: Path, to: str, artifacts: str) -> list[str]:
    arguments = ["--from", f"sqlite:///{source}", "--to", to, "--artifacts", artifacts]
    return [sys.executable, "-m", "pipeline", "migrate", *arguments]


def migrate(source: Path, to: str, artifacts: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, to, artifacts),
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def keys(s3: str, bucket: str) -> int:
    listed = httpx.get(f"{s3}/{bucket}", params={"list-type": "2", "max-keys": "9999"}).raise_for_status().text
    return listed.count("<Key>")


def described(client: MlflowClient) -> dict[str, object]:
    """All that a registry knows of its runs, versions and aliases, except where their files are."""
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment
    runs: list[Run] = []
    token = None
    while token or not runs:
        page = client.search_runs([experiment.experiment_id], max_results=500, page_token=token)
        runs, token = runs + list(page), page.token
    ours = {run.info.run_id for run in runs}
    history = {run: [(m.step, m.value) for m in client.get_metric_history(run, "loss")] for run in sorted(ours)[:20]}
    versions = client.search_model_versions(f"name = '{MODEL}'", max_results=500)
    model = client.get_registered_model(MODEL)
    return {
        "runs": {run.info.run_id: (run.info.run_name, run.info.status, run.data.to_dictionary()) for run in runs},
        "inputs": {run.info.run_id: run.inputs.to_dictionary() for run in runs if run.inputs},
        "history": history,
        "versions": sorted((int(each.version), each.run_id, str(dict(each.tags))) for each in versions),
        "aliases": {alias: int(version) for alias, version in model.aliases.items()},
        "model": (model.description, model.tags),
    }


@pytest.mark.long
def test_nothing_of_1000_runs_is_lost(
    filled: Path, postgres: Postgres, s3: str, bucket: str, environment: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    database = postgres.create()
    service = environment | postgres.service(database, tmp_path)
    place = f"s3://{bucket}/team"
    before = described(MlflowClient(f"sqlite:///{filled}"))
    started = time.monotonic()
    done = migrate(filled, "postgresql+psycopg://?service=digits", place, service)
    print(f"migration of {RUNS} runs: {time.monotonic() - started:.1f} s\n{done.stdout}")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"runs +│ {RUNS} +│ {RUNS} +│", done.stdout)
    assert re.search(rf"artifacts +│ {RUNS * FILES} +│ {RUNS * FILES} +│", done.stdout)
    repeated = migrate(filled, postgres.url(database), place, environment)
    assert last_line(repeated).endswith("already: nothing was changed.")
    assert repeated.stdout == done.stdout
    for name, value in THROUGH_THE_SERVER.items():
        monkeypatch.setenv(name, value)
    with team_server(tmp_path, service, place) as url:
        client = MlflowClient(url)
        assert described(client) == before
        for number in (1, VERSIONS):
            version = client.get_model_version(MODEL, str(number))
            assert version.run_id
            folder = client.download_artifacts(version.run_id, "", str(tmp_path))
            original = filled.parent / "artifacts" / version.run_id / "artifacts"
            assert {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*.bin")} == {
                str(file.relative_to(original)): file.read_bytes() for file in original.rglob("*.bin")
            }
        experiment = client.get_experiment_by_name(MODEL)
        assert experiment
        run = client.create_run(experiment.experiment_id).info.run_id
        client.log_text(run, "new", "new.txt")
        assert keys(s3, bucket) == RUNS * FILES + 1
        assert int(client.create_experiment("later")) > int(experiment.experiment_id)  # its number was not taken
    again = migrate(filled, postgres.url(database), place, environment)
    assert last_line(again).endswith("already: nothing was changed.")


def test_rows_of_every_table_arrive_in_postgres(
    state: Path, postgres: Postgres, bucket: str, environment: dict[str, str]
) -> None:
    tables = fill_every_table(state / "mlflow.db")
    database = postgres.create()
    done = migrate(state / "mlflow.db", postgres.url(database), f"s3://{bucket}", environment)
    assert done.returncode == 0, done.stderr
    for table in tables:
        assert re.search(rf"{table} +│ (\d+) +│ \1 +│ [0-9a-f]{{16}}", done.stdout), table
    nothing = "SELECT count(*) FROM evaluation_dataset_records WHERE tags IS NULL"
    assert postgres.query(database, nothing) == ["1"]
    assert postgres.query(database, nothing.replace("tags IS NULL", "tags::text = 'null'")) == ["1"]
    assert postgres.query(database, "SELECT valid, is_numeric_value FROM assessments") == ["t|t"]


def test_interrupted_migration_is_completed(
    fewer: Path, postgres: Postgres, s3: str, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    database = postgres.create()
    places = (fewer, postgres.url(database), f"s3://{bucket}")
    with running(command(*places), environment, tmp_path / "log") as process:
        wait_until(lambda: keys(s3, bucket) > 50, "the first artifacts")
        process.send_signal(signal.SIGKILL)
        process.wait()
    copied = keys(s3, bucket)
    assert copied < FEWER * FILES
    assert postgres.query(database, "SELECT count(*) FROM runs") == ["0"]
    done = migrate(*places, environment)
    assert done.returncode == 0, done.stderr
    now = re.search(r"\((\d+) copied now\)", last_line(done))
    assert now
    assert 0 < int(now[1]) <= FEWER * FILES - copied + 1  # the last one may have been half sent
    assert keys(s3, bucket) == FEWER * FILES
    assert postgres.query(database, "SELECT count(*) FROM runs") == [str(FEWER)]


def test_migration_cut_off_among_the_rows_leaves_none(
    small: Path, postgres: Postgres, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    database = postgres.create()
    places = (small, postgres.url(database), f"s3://{bucket}")
    assert migrate(*places, environment).returncode == 0  # all artifacts are there
    database = postgres.create()
    places = (small, postgres.url(database), f"s3://{bucket}")
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", postgres.url(database)]
    subprocess.run(upgrade, env={**os.environ, **environment}, check=True, capture_output=True, timeout=120)
    postgres.query(
        database,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';"
        "CREATE TRIGGER late BEFORE INSERT ON registered_model_aliases EXECUTE FUNCTION wait()",
    )
    of_aliases = f"datname = '{database}' AND query LIKE 'INSERT INTO registered_model_aliases%'"
    with running(command(*places), environment, tmp_path / "log") as process:
        waiting = f"SELECT pid FROM pg_stat_activity WHERE {of_aliases}"
        wait_until(lambda: bool(postgres.query("postgres", waiting)), "the last rows")
        process.send_signal(signal.SIGKILL)
        process.wait()
    postgres.query("postgres", f"SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity WHERE {of_aliases}")
    postgres.query(database, "DROP FUNCTION wait CASCADE")
    assert postgres.query(database, "SELECT count(*) FROM metrics") == ["0"]
    done = migrate(*places, environment)
    assert done.returncode == 0, done.stderr
    assert "(0 copied now)" in last_line(done)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE alembic_version SET version_num = 'cbc13b556ace'", "run `mlflow db upgrade ADDRESS`"),
        ("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE users (id int)", "of another application"),
    ],
)
def test_postgres_of_another_schema_is_refused(
    small: Path, postgres: Postgres, s3: str, bucket: str, environment: dict[str, str], change: str, reason: str
) -> None:
    database = postgres.create()
    places = (postgres.url(database), f"s3://{bucket}")
    assert migrate(small, *places, environment).returncode == 0
    postgres.query(database, change)
    copied = keys(s3, bucket)
    refused = migrate(small, *places, environment)
    assert refused.returncode == 1
    assert reason in last_line(refused)
    assert keys(s3, bucket) == copied


def test_other_registry_is_not_overwritten(
    small: Path, fewer: Path, postgres: Postgres, bucket: str, environment: dict[str, str]
) -> None:
    places = (postgres.url(postgres.create()), f"s3://{bucket}")
    assert migrate(small, *places, environment).returncode == 0
    refused = migrate(fewer, *places, environment)
    assert refused.returncode == 1
    assert "holds another registry" in last_line(refused)


def test_row_that_postgres_cannot_store_is_named(
    small: Path, postgres: Postgres, bucket: str, environment: dict[str, str]
) -> None:
    client = MlflowClient(f"sqlite:///{small}")
    client.set_registered_model_tag(MODEL, "note", "a\0b")  # SQLite takes it
    database = postgres.create()
    refused = migrate(small, postgres.url(database), f"s3://{bucket}", environment)
    assert refused.returncode == 1
    assert "refuses a row of registered_model_tags" in last_line(refused)
    assert postgres.query(database, "SELECT count(*) FROM runs") == ["0"]


@pytest.mark.parametrize(
    ("password", "reason"),
    [("s3cret@home", "in the password %40 for @"), ("s3cret", "password authentication failed")],
)
def test_wrong_password_is_explained_and_not_shown(
    small: Path, postgres: Postgres, bucket: str, environment: dict[str, str], password: str, reason: str
) -> None:
    refused = migrate(small, postgres.url("mlflow", password), f"s3://{bucket}", environment)
    assert refused.returncode == 1
    assert reason in last_line(refused)
    assert "s3cret" not in refused.stdout + refused.stderr


def test_absent_postgres_is_named(small: Path, bucket: str, environment: dict[str, str]) -> None:
    refused = migrate(small, "postgresql+psycopg://digits@127.0.0.1:1/digits", f"s3://{bucket}", environment)
    assert refused.returncode == 1
    assert re.search(r"postgresql\+psycopg://127.0.0.1:1/digits cannot be opened .*refused", last_line(refused))


def test_bucket_that_does_not_exist_is_named(small: Path, postgres: Postgres, environment: dict[str, str]) -> None:
    database = postgres.create()
    refused = migrate(small, postgres.url(database), "s3://no-such-bucket/team", environment)
    assert refused.returncode == 1
    assert "s3://no-such-bucket/team" in last_line(refused)
    assert "bucket does not exist" in last_line(refused)
    assert postgres.query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == ["0"]


def test_keys_without_rights_are_refused(
    small: Path, postgres: Postgres, environment: dict[str, str], tmp_path: Path
) -> None:
    with s3_server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as s3:
        httpx.put(f"{s3}/private").raise_for_status()  # the only request without a check of its key
        there = environment | {"MLFLOW_S3_ENDPOINT_URL": s3}
        refused = migrate(small, postgres.url(postgres.create()), "s3://private", there)
    assert refused.returncode == 1
    assert "s3://private" in last_line(refused)
    assert re.search("Access Key Id|Access Denied|signature", last_line(refused))
    assert "s3cret" not in refused.stderr


def test_absent_keys_and_absent_store_are_named(
    small: Path, postgres: Postgres, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    url = postgres.url(postgres.create())
    without = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    without |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    refused = migrate(small, url, f"s3://{bucket}", without)
    assert "Unable to locate credentials" in last_line(refused)
    away = environment | {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}
    refused = migrate(small, url, f"s3://{bucket}", away)
    assert "Could not connect to the endpoint URL" in last_line(refused)
    assert refused.returncode == 1


def test_missing_packages_are_named(small: Path, postgres: Postgres, tmp_path: Path) -> None:
    refused = migrate(small, postgres.url("mlflow"), str(tmp_path / "artifacts"), {})
    assert "needs the package psycopg: " in last_line(refused)
    assert "install requirements/team.txt" in last_line(refused)
    refused = migrate(small, f"sqlite:///{tmp_path}/new.db", "s3://bucket", {})
    assert re.search("needs the package boto.*: install requirements/team.txt", last_line(refused))
