"""The connection to MLflow: a server, or the embedded store in the state folder.

Without MLFLOW_TRACKING_URI, MLflow's embedded store is used: a SQLite file and a folder, both in the state folder.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

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
        database, artifacts = state_dir / "mlflow.db", state_dir / "artifacts"
        if set("%?") & set(str(database)):  # escaped, they lead to the database, but MLflow makes a folder elsewhere
            raise TrackingError(f"MLflow cannot use {state_dir}, because of % or ?: choose another --state-dir.")
        mlflow.set_tracking_uri(f"sqlite:///{database}")
        with turn(state_dir, "connecting"):  # MLflow makes its tables here
            _require_usable(database)
            if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts.resolve().as_uri())
            else:
                follow(database, artifacts)
    else:
        try:
            urlsplit(uri)
        except ValueError as error:
            raise TrackingError(f"MLFLOW_TRACKING_URI is not an address ({error}): correct it, or unset it.") from None
        mlflow.set_tracking_uri(uri)
        _wait(uri, timeout)
    mlflow.set_experiment(EXPERIMENT)
    log.info("Tracking: %s, experiment %s.", mlflow.get_tracking_uri(), EXPERIMENT)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the exceptions of MLflow, of its requests, of its database and of the disk into errors of one sentence.

    Raises:
        TrackingError: one of them was raised within the block.
    """
    try:
        yield
    except (MlflowException, RequestException) as error:
        raise TrackingError(f"MLflow failed: {' '.join(str(error).split())}") from error
    except (sqlite3.Error, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise TrackingError(f"MLflow's database failed ({reason}): repeat the command, or restore a backup.") from error
    except OSError as error:
        where = f"{error.filename} cannot be used" if error.filename else "A file cannot be used"
        raise TrackingError(f"{where} ({error.strerror or error}): mend that, and repeat the command.") from error


def _require_usable(database: Path) -> None:
    """Refuse at once what SQLite would try for minutes: a database that is damaged, or cannot be written.

    Raises:
        TrackingError: as said.
    """
    if not database.exists():
        return
    if not os.access(database, os.W_OK):
        raise TrackingError(f"{database} cannot be written: correct its owner or mode, or choose another --state-dir.")
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        raise TrackingError(
            f"{database} cannot be read ({error}): restore a backup, or choose another --state-dir."
        ) from None


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
