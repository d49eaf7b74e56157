"""The connection to MLflow: a server, or the embedded store in the state folder.

Without MLFLOW_TRACKING_URI, MLflow's embedded store is used: a SQLite file and a folder, both in the state folder.
"""

import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.logging_utils import disable_logging
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from pipeline import PipelineError
from pipeline.logs import is_json
from pipeline.tracking.location import EXPERIMENT, follow
from pipeline.tracking.turns import turn

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOG_EVERY = 5.0  # seconds between two log lines while waiting for the server
RETRIES, REQUEST_TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
# By MLflow's defaults, a request to a server that hangs ends after a quarter of an hour. A user's own values stand.
BOUNDS = {RETRIES: "2", REQUEST_TIMEOUT: "20"}
ATTEMPTS = 3
ANSWERS_WITHIN = 5  # seconds that a server has to answer a trial request


class TrackingError(PipelineError):
    """MLflow cannot be used; the message is one sentence with the remedy."""


class AwayError(TrackingError):
    """MLflow does not answer. Reports are kept, and the message has the command that delivers them."""

    exit_code = 3


def connect(state_dir: Path, timeout: float) -> None:
    """Point MLflow at its server, or at its embedded store in `state_dir`, and select the experiment.

    Args:
        state_dir: the folder of the embedded store.
        timeout: seconds to wait for the server.

    Raises:
        TrackingError: the server did not answer in time, or refuses.
        MovedError: the embedded store was moved without its artifacts.
    """
    silence()
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for name, value in BOUNDS.items():
        os.environ.setdefault(name, value)
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
    log.info("Tracking: %s, experiment %s.", redacted(mlflow.get_tracking_uri()), EXPERIMENT)


def silence() -> None:
    """Keep MLflow from printing lines of its own between those in JSON; some of its functions end the silence."""
    if is_json():
        disable_logging()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the exceptions of MLflow, of its requests, of its database and of the disk into errors of one sentence.

    Raises:
        TrackingError: one of them was raised within the block.
    """
    try:
        yield
    except (MlflowException, RequestException) as error:
        raise TrackingError(f"MLflow failed: {one_line(error)}") from error
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


def patiently(action: Callable[[], Result], patience: float) -> Result:
    """Carry out an action that may be repeated; if MLflow goes away meanwhile, wait for it, and repeat.

    Args:
        action: what to do.
        patience: seconds to wait.

    Raises:
        AwayError: MLflow did not answer in time.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return action()
        except (MlflowException, RequestException) as error:
            log.warning("MLflow failed, trying again: %s", one_line(error))
        try:
            _wait(mlflow.get_tracking_uri(), patience)
        except TrackingError as error:
            raise AwayError(
                f"{error} All reports are delivered; run `python -m pipeline publish` when it answers."
            ) from error
    return action()


def one_line(error: object) -> str:
    """An error's message in one line, without a password in an address."""
    return redacted(" ".join(str(error).split()))


def redacted(text: str) -> str:
    """A text without user names and passwords in its addresses."""
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextmanager
def once() -> Iterator[None]:
    """Within the block, MLflow repeats no request that failed: it may have been carried out all the same."""
    with _environment(RETRIES, "0"):
        yield


def _wait(uri: str, timeout: float) -> None:
    uri = redacted(uri)
    started = logged = time.monotonic()
    while True:
        left = timeout - (time.monotonic() - started)
        # Retry here and not in MLflow, so that progress can be logged.
        with once(), _environment(REQUEST_TIMEOUT, str(max(1, min(ANSWERS_WITHIN, math.ceil(left))))):
            try:
                mlflow.search_experiments(max_results=1)
                return
            except MlflowException as error:
                problem = one_line(error)[:200]
        waited = time.monotonic() - started
        if waited >= timeout:
            raise TrackingError(
                f"The MLflow server at {uri} did not answer within {timeout:.0f} s: start it, or correct "
                f"MLFLOW_TRACKING_URI, or unset it to use the embedded store ({problem})."
            )
        if time.monotonic() - logged >= LOG_EVERY:
            logged = time.monotonic()
            log.info("Waiting for the MLflow server at %s (%.0f of %.0f s) ...", uri, waited, timeout)
        time.sleep(max(0.0, min(1.0, timeout - waited)))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
