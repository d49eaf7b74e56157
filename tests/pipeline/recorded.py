"""Records in MLflow, for tests of commands."""

from pathlib import Path

import mlflow
from mlflow.entities import Experiment, Run


def experiment() -> Experiment:
    found = mlflow.get_experiment_by_name("digits")
    assert found
    return found


def runs(condition: str = "") -> list[Run]:
    """Runs that meet a condition, the oldest first."""
    return mlflow.search_runs(
        experiment_names=["digits"], filter_string=condition, output_format="list", order_by=["start_time ASC"]
    )


def artifact(run: Run, path: str) -> bytes:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path)).read_bytes()
