"""Migrations that are refused: another registry or schema, and places or keys that cannot be used."""

import re
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from .commands import keys, last_line, migrate
from .servers import Postgres, s3_server
from .store import MODEL

pytestmark = pytest.mark.scale


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
