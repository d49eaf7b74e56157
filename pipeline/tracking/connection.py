"""The connection to MLflow: a server, or the embedded store in the state folder.

Without MLFLOW_TRACKING_URI, MLflow's embedded store is used: a SQLite file and a folder, both in the state folder.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from pipeline import PipelineError
from pipeline.tracking.location import EXPERIMENT, follow
from pipeline.tracking.turns import turn

log = logging.getLogger(__name__)

LOG_EVERY = 5.0  # seconds between two log lines while waiting for the server


class TrackingError(PipelineError):
    """MLflow cannot be used; the message is one sentence with the remedy."""


def connect(state_dir: Path, timeout: float) -> None:
    """Point MLflow at its server, or at its embedded store in `state_dir`, and select the experiment.

    Args:
        state_dir: the folder of the embedded store.
        timeout: seconds to wait for the server.

    Raises:
        TrackingError: the server did not answer in time, or refuses.
        MovedError: the embedded store was moved without its artifacts.
    """
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        state_dir.mkdir(parents=True, exist_ok=True)
        database, artifacts = state_dir / "mlflow.db", state_dir / "artifacts"
        mlflow.set_tracking_uri(f"sqlite:///{database}")
        with turn(state_dir, "connecting"):  # MLflow makes its tables here
            if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts.resolve().as_uri())
            else:
                follow(database, artifacts)
    else:
        mlflow.set_tracking_uri(uri)
        _wait(uri, timeout)
    mlflow.set_experiment(EXPERIMENT)
    log.info("Tracking: %s, experiment %s.", mlflow.get_tracking_uri(), EXPERIMENT)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn MLflow's exceptions into errors of one sentence.

    Raises:
        TrackingError: MLflow raised within the block.
    """
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"MLflow failed: {' '.join(str(error).split())}") from error


def _wait(uri: str, timeout: float) -> None:
    retries = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # retry here instead, so that progress can be logged
    started = logged = time.monotonic()
    try:
        while True:
            try:
                mlflow.search_experiments(max_results=1)
                return
            except MlflowException as error:
                problem = " ".join(str(error).split())[:200]
            waited = time.monotonic() - started
            if waited >= timeout:
                raise TrackingError(
                    f"The MLflow server at {uri} did not answer within {timeout:.0f} s: start it, or correct "
                    f"MLFLOW_TRACKING_URI, or unset it to use the embedded store ({problem})."
                )
            if time.monotonic() - logged >= LOG_EVERY:
                logged = time.monotonic()
                log.info("Waiting for the MLflow server at %s (%.0f of %.0f s) ...", uri, waited, timeout)
            time.sleep(min(1.0, timeout))
    finally:
        if retries is None:
            del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
        else:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = retries
