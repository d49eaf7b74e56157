"""Runs in MLflow: how to reach it, and what each run tells.

Without MLFLOW_TRACKING_URI, MLflow's embedded store serves: a SQLite file and a folder, both in the state folder.
"""

import logging
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import mlflow
import mlflow.data.numpy_dataset
import numpy as np
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from torch import Tensor

from pipeline import PipelineError
from pipeline.data.dataset import DataSet, Digits
from pipeline.recipes import Recipe
from pipeline.training.loop import Epoch

log = logging.getLogger(__name__)

EXPERIMENT = "digits"
SAY_EVERY = 5.0  # seconds between two lines while waiting for the server


class TrackingError(PipelineError):
    """MLflow cannot be used; the message is one sentence that says what to do."""


def connect(state_dir: Path, timeout: float) -> None:
    """Point MLflow at its server, or at its embedded store in `state_dir`, and choose the experiment.

    Args:
        state_dir: the folder of the embedded store.
        timeout: seconds to wait for the server.

    Raises:
        TrackingError: the server did not answer in time, or refuses.
    """
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        state_dir.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{state_dir / 'mlflow.db'}")
        artifacts = (state_dir / "artifacts").resolve().as_uri()
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts)
    else:
        mlflow.set_tracking_uri(uri)
        _wait(uri, timeout)
    mlflow.set_experiment(EXPERIMENT)
    log.info("Tracking: %s, experiment %s.", mlflow.get_tracking_uri(), EXPERIMENT)


@contextmanager
def run(name: str, tags: dict[str, str], resumed: str | None = None) -> Iterator[str]:
    """An MLflow run with its console log; it is marked as failed if the block raises. Gives the run's id.

    Within the block of another run it is nested in that one.

    Args:
        name: shown by MLflow.
        tags: of the run.
        resumed: the id of a run that was cut off; it goes on if MLflow still knows it.
    """
    known = resumed if resumed and _is_known(resumed) else None
    parent = mlflow.active_run()
    if parent:  # MLflow itself sets this tag on new runs only
        tags = tags | {MLFLOW_PARENT_RUN_ID: parent.info.run_id}
    with (
        tempfile.TemporaryDirectory() as folder,
        mlflow.start_run(known, run_name=name, nested=parent is not None, tags=tags) as active,
    ):
        said = Path(folder) / "console.log"
        if known and any(file.path == said.name for file in mlflow.MlflowClient().list_artifacts(known)):
            mlflow.artifacts.download_artifacts(run_id=known, artifact_path=said.name, dst_path=folder)
        console = logging.FileHandler(said)  # which goes on where it ended
        console.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(console)
        try:
            yield active.info.run_id
        except Exception as error:
            log.error("The run failed: %s", error)
            raise
        finally:
            logging.getLogger().removeHandler(console)
            console.close()
            mlflow.log_artifact(console.baseFilename)


def log_parameters(recipe: Recipe, settings: dict[str, object]) -> None:
    """Log all that was chosen: the settings, and each field of the recipe as `recipe.<field>`."""
    parameters = dict(settings)
    for name, value in asdict(recipe).items():
        if isinstance(value, dict):
            parameters |= {f"recipe.{name}.{part}": of_part for part, of_part in value.items()}
        else:
            parameters[f"recipe.{name}"] = value
    mlflow.log_params(parameters)


def log_dataset(dataset: DataSet) -> None:
    """Log the training and the validation split as the run's inputs, with the data set's digest."""
    for context, digits in (("training", dataset.train), ("validation", dataset.validation)):
        source = mlflow.data.numpy_dataset.from_numpy(
            digits.images.numpy(),
            targets=digits.labels.numpy(),
            source=f"http://yann.lecun.com/exdb/mnist/#{dataset.name}",
            name=f"MNIST-{dataset.name}-{context}",  # one name and digest would be one input
            digest=dataset.digest[:36],  # MLflow's limit
        )
        mlflow.log_input(source, context=context)


def log_predictions(digits: Digits, probabilities: Tensor) -> None:
    """Log labels and PyTorch's probabilities of the test digits as `predictions/test.npz`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test.npz"
        np.savez_compressed(file, labels=digits.labels.numpy(), probabilities=probabilities.numpy())
        mlflow.log_artifact(str(file), "predictions")


class RunReporter:
    """Logs each epoch's numbers to the active run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._client = mlflow.MlflowClient()

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Log the epochs that this run does not have yet: it may be another run than the one that was cut off."""
        logged = self._client.get_metric_history(self._run_id, "train_loss")
        for epoch in epochs[len(logged) :]:
            self.epoch(epoch)

    def step(self, images: int, loss: Tensor) -> None:
        """Nothing: losses of steps are logged an epoch at a time."""

    def epoch(self, epoch: Epoch) -> None:
        """One request for all numbers of the epoch; those of an epoch are counted in epochs, losses in steps."""
        now = int(time.time() * 1000)
        of_epoch = {
            "train_loss": epoch.train_loss,
            "validation_loss": epoch.validation_loss,
            "validation_accuracy": epoch.validation_accuracy,
            "learning_rate": epoch.learning_rate,
            "images_per_second": epoch.images_per_second,
        }
        self._client.log_batch(
            self._run_id,
            [Metric(name, value, now, epoch.number) for name, value in of_epoch.items()]
            + [Metric("step_loss", loss, now, step) for step, loss in epoch.losses],
        )


def find_dense_accuracy(data_digest: str) -> float | None:
    """Test accuracy of the newest finished run of the dense network on the same data, if there is one."""
    runs = _search(f"tags.recipe = 'dense' and tags.data_digest = '{data_digest}' and status = 'FINISHED'", 1)
    return runs[0].data.metrics.get("test_accuracy") if runs else None


def find_newest(fingerprint: str) -> Run | None:
    """The newest run of a fingerprint, finished or not."""
    runs = _search(f"tags.fingerprint = '{fingerprint}'", 1)
    return runs[0] if runs else None


def find_finished(fingerprint: str, metrics: Collection[str]) -> Run | None:
    """The newest finished run of a fingerprint among those that logged all of these metrics."""
    runs = _search(f"tags.fingerprint = '{fingerprint}' and status = 'FINISHED'")
    return next((run for run in runs if run.data.metrics.keys() >= set(metrics)), None)


def _search(condition: str, most: int = 100) -> list[Run]:
    runs: list[Run] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=condition,
        order_by=["attributes.start_time DESC"],
        max_results=most,
        output_format="list",
    )
    return runs


def _is_known(run_id: str) -> bool:
    try:
        return mlflow.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def _wait(uri: str, timeout: float) -> None:
    retries = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # the patience is here, where it can be told
    started = said = time.monotonic()
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
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                log.info("Waiting for the MLflow server at %s (%.0f of %.0f s) ...", uri, waited, timeout)
            time.sleep(min(1.0, timeout))
    finally:
        if retries is None:
            del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
        else:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = retries
