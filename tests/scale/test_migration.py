"""The move of a registry from one machine to PostgreSQL and S3, with the faults that a team meets."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.pipeline.tracking.filled import fill as fill_every_table
from tests.processes import running, wait_until

from .commands import command, keys, last_line, migrate
from .servers import THROUGH_THE_SERVER, Postgres, team_server
from .store import FEWER, FILES, MODEL, registry_of

pytestmark = pytest.mark.scale

RUNS, VERSIONS = 1000, 50


@pytest.fixture
def filled(tmp_path: Path, empty_store: Path) -> Path:
    """A registry with 1,000 runs, 50 versions and 5,000 artifacts."""
    return registry_of(tmp_path / "filled", empty_store, RUNS, VERSIONS)


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
