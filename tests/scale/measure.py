"""Time the registry of a team with 10,000 runs and 1,000 versions: `python -m tests.scale.measure`.

It trains one model through MLflow on PostgreSQL and S3, and multiplies its rows in the database. Each figure is the
median and the largest of several, in seconds of the registry alone: the import of torch is not in it.
"""

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.processes import ROOT

from .servers import (
    THROUGH_THE_SERVER,
    Postgres,
    packages_and_keys,
    place_for_postgres,
    postgres_server,
    s3_server,
    team_server,
)

RUNS, VERSIONS = 10_000, 1_000
TRAIN = ["train", "--subset", "tenth", "--recipe", "dense", "--minimum-accuracy", "0.5"]
COPIED = ("tags", "params", "metrics", "latest_metrics")


def multiply(server: Postgres, database: str) -> None:
    """Copy the only run, and its version, under other ids."""
    columns = "SELECT string_agg(column_name, ',') FROM information_schema.columns WHERE table_schema = 'public' AND "
    for table, key, many in (
        ("runs", "run_uuid", RUNS),
        *((table, "run_uuid", RUNS) for table in COPIED),
        ("model_versions", "version", VERSIONS),
        ("model_version_tags", "version", VERSIONS),
    ):
        (others,) = server.query(database, f"{columns} table_name = '{table}' AND column_name <> '{key}'")
        value = "md5(number::text)" if key == "run_uuid" else "number"
        server.query(
            database,
            f"INSERT INTO {table} ({key}, {others}) SELECT {value}, {others} FROM {table}, "
            f"generate_series(2, {many}) AS number",
        )
    server.query(database, "ANALYZE")


def timed(action: Callable[[], object], times: int) -> str:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return f"median {statistics.median(taken):.3f} s, largest {max(taken):.3f} s, of {times}"


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as temporary, place_for_postgres() as place:
        folder = Path(temporary)
        with postgres_server(place) as server, s3_server(folder) as s3:
            httpx.put(f"{s3}/digits").raise_for_status()
            database = server.create()
            environment = packages_and_keys(s3) | server.service(database, folder)
            with team_server(folder, environment, "s3://digits/team") as url:
                client = {"MLFLOW_TRACKING_URI": url, "PIPELINE_STATE_DIR": str(folder / "state"), **THROUGH_THE_SERVER}
                os.environ.update(client)
                subprocess.run([sys.executable, "-m", "pipeline", *TRAIN], cwd=ROOT, check=True)
                multiply(server, database)
                report(folder / "state")


def report(state: Path) -> None:
    """Time what `status`, the gate and the poll of the service ask."""
    from mlflow import MlflowClient

    from pipeline import commands, promotion
    from pipeline.data import mnist
    from pipeline.promotion import Gate
    from pipeline.settings import ModelSettings
    from pipeline.tracking import registry

    logging.disable()
    settings = ModelSettings(state_dir=state)  # type: ignore[call-arg]
    status = timed(lambda: commands.status(settings), 5)
    validation = mnist.load("tenth", None, state).validation
    newest = registry.get(VERSIONS, "digits")

    def judge() -> None:
        promotion.finish("digits")
        promotion.consider(newest, validation, Gate(0.5, 0.05), explicit=True)

    gate = timed(judge, 5)
    client = MlflowClient()
    poll = timed(lambda: client.get_model_version_by_alias("digits", "champion"), 200)
    print(f"{RUNS} runs, {VERSIONS} versions\nstatus  {status}\ngate    {gate}\npoll    {poll}")


if __name__ == "__main__":
    main()
