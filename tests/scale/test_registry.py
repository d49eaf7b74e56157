"""The registry of a team under its clients: training, serving and their polls, through MLflow's server alone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .commands import pipeline
from .servers import THROUGH_THE_SERVER, Postgres, place_for_postgres, postgres_server, team_server

pytestmark = pytest.mark.scale

TRAIN = ["train", "--subset", "tenth", "--recipe", "dense", "--minimum-accuracy", "0.5"]


@pytest.fixture
def team(postgres: Postgres, bucket: str, environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    service = postgres.service(postgres.create(), tmp_path)
    with team_server(tmp_path, environment | service, f"s3://{bucket}") as url:
        yield url


@pytest.mark.long
def test_training_registers_and_exports_through_the_server_without_keys_of_the_store(team: str, tmp_path: Path) -> None:
    client = {"MLFLOW_TRACKING_URI": team, "PIPELINE_STATE_DIR": str(tmp_path / "state"), **THROUGH_THE_SERVER}
    trained = pipeline(*TRAIN, **client)
    assert trained.returncode == 0, trained.stderr
    assert "champion" in pipeline("status", **client).stdout
    exported = pipeline("export", "--to", str(tmp_path / "model.onnx"), **client)
    assert exported.returncode == 0, exported.stderr
    log = (tmp_path / "mlflow.log").read_text()
    assert len(set(re.findall(r"Started server process \[(\d+)\]", log))) >= 2  # workers


def test_database_is_made_whole_after_a_start_that_was_cut_off() -> None:
    with place_for_postgres() as folder:
        (folder / "data.new").mkdir()
        (folder / "data.new").chmod(0o777)
        (folder / "data.new" / "PG_VERSION").write_text("15\n")  # what `initdb` writes first
        with postgres_server(folder) as server:
            server.query("mlflow", "CREATE TABLE kept (id int)")
        with postgres_server(folder) as server:
            assert server.query("mlflow", "SELECT count(*) FROM kept") == ["0"]
