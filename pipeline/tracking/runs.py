"""Runs in MLflow: starting one, logging to it, finding those of earlier commands."""

import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import mlflow
import mlflow.data.numpy_dataset
import numpy as np
from matplotlib.figure import Figure
from mlflow.entities import Metric
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from torch import Tensor

from pipeline.data.dataset import DataSet, Digits
from pipeline.recipes import Recipe
from pipeline.tracking.descriptions import MODE, NOTE
from pipeline.tracking.location import EXPERIMENT
from pipeline.training.callback import Callback, Epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedRun:
    """A run as MLflow recorded it."""

    id: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    parameters: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    tags: dict[str, str]


class ActiveRun:
    """The run that is being logged to; `start` makes one.

    Attributes:
        id: MLflow's id.
        resumed: whether it continues a run that was interrupted.
    """

    def __init__(self, run: MlflowRun, resumed: bool) -> None:
        self.id, self.resumed = run.info.run_id, resumed
        self._page = f"#/experiments/{run.info.experiment_id}/runs/{self.id}"
        self._client = mlflow.MlflowClient()

    def page_of(self, artifact: str) -> str:
        """The address of MLflow's page of an artifact, for a link on another page of MLflow."""
        return f"{self._page}/artifacts/{artifact}?{MODE}"

    def describe(self, text: str) -> None:
        """Set the run's description, in Markdown."""
        self._client.set_tag(self.id, NOTE, text)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log settings and choices by name."""
        mlflow.log_params(dict(parameters), run_id=self.id)

    def log_recipe(self, recipe: Recipe) -> None:
        """Log each field of the recipe as the parameter `recipe.<field>`."""
        parameters: dict[str, object] = {}
        for name, value in asdict(recipe).items():
            if isinstance(value, dict):
                parameters |= {f"recipe.{name}.{part}": of_part for part, of_part in value.items()}
            else:
                parameters[f"recipe.{name}"] = value
        self.log_parameters(parameters)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log one value of each metric."""
        mlflow.log_metrics(dict(metrics), run_id=self.id)

    def log_dataset(self, dataset: DataSet) -> None:
        """Log the training and the validation split as the run's inputs, with the data set's digest."""
        for context, digits in (("training", dataset.train), ("validation", dataset.validation)):
            source = mlflow.data.numpy_dataset.from_numpy(
                digits.images.numpy(),
                targets=digits.labels.numpy(),
                source=f"http://yann.lecun.com/exdb/mnist/#{dataset.name}",
                name=f"MNIST-{dataset.name}-{context}",  # MLflow merges inputs of the same name and digest
                digest=dataset.digest[:36],  # MLflow's limit
            )
            mlflow.log_input(source, context=context)

    def log_predictions(self, digits: Digits, probabilities: Tensor) -> None:
        """Log labels and PyTorch's probabilities of the test digits as `predictions/test.npz`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "test.npz"
            np.savez_compressed(file, labels=digits.labels.numpy(), probabilities=probabilities.numpy())
            mlflow.log_artifact(str(file), "predictions", run_id=self.id)

    def log_files(self, files: Mapping[str, bytes | str]) -> None:
        """Log artifacts by path: bytes as they are, text as UTF-8."""
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
            mlflow.log_artifacts(folder, run_id=self.id)

    def log_figure(self, figure: Figure, path: str) -> None:
        """Log a figure as an artifact."""
        self._client.log_figure(self.id, figure, path)

    def recorded(self) -> RecordedRun:
        """Everything logged so far."""
        return _recorded(self._client.get_run(self.id))


class EpochLogger(Callback):
    """Logs the metrics of each epoch."""

    def __init__(self, run: ActiveRun) -> None:
        self._run_id = run.id
        self._client = mlflow.MlflowClient()

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Log the epochs that this run lacks: it may not be the run that was interrupted."""
        logged = self._client.get_metric_history(self._run_id, "train_loss")
        for epoch in epochs[len(logged) :]:
            self.epoch(epoch)

    def epoch(self, epoch: Epoch) -> None:
        """Log the epoch in one request; its metrics are indexed by epoch, the losses of batches by step."""
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


@contextmanager
def start(name: str, tags: dict[str, str], interrupted: str | None = None) -> Iterator[ActiveRun]:
    """Start an MLflow run, with its console log as an artifact; it is marked as failed if the block raises.

    Within the block of another run it is nested in that one.

    Args:
        name: shown by MLflow.
        tags: of the run.
        interrupted: the id of an interrupted run, which is resumed if MLflow still has it.
    """
    known = interrupted if interrupted and _is_known(interrupted) else None
    parent = mlflow.active_run()
    if parent:  # MLflow itself sets this tag on new runs only
        tags = tags | {MLFLOW_PARENT_RUN_ID: parent.info.run_id}
    with (
        tempfile.TemporaryDirectory() as folder,
        mlflow.start_run(known, run_name=name, nested=parent is not None, tags=tags) as active,
    ):
        console = Path(folder) / "console.log"
        if known and any(file.path == console.name for file in mlflow.MlflowClient().list_artifacts(known)):
            mlflow.artifacts.download_artifacts(run_id=known, artifact_path=console.name, dst_path=folder)
        handler = logging.FileHandler(console)  # appends to the log of an interrupted run
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            yield ActiveRun(active, known is not None)
        except Exception as error:
            log.error("The run failed: %s", error)
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
            mlflow.log_artifact(str(console))


def find_dense_accuracy(data_digest: str) -> float | None:
    """Test accuracy of the newest finished run of the dense network on the same data, if there is one."""
    runs = _search(f"tags.recipe = 'dense' and tags.data_digest = '{data_digest}' and status = 'FINISHED'", 1)
    return runs[0].metrics.get("test_accuracy") if runs else None


def find_newest(fingerprint: str) -> RecordedRun | None:
    """The newest run with a fingerprint, finished or not."""
    runs = _search(f"tags.fingerprint = '{fingerprint}'", 1)
    return runs[0] if runs else None


def find_finished(fingerprint: str, metrics: Collection[str]) -> RecordedRun | None:
    """The newest finished run with a fingerprint that has all of these metrics."""
    runs = _search(f"tags.fingerprint = '{fingerprint}' and status = 'FINISHED'")
    return next((run for run in runs if run.metrics.keys() >= set(metrics)), None)


def read_artifact(run_id: str, path: str) -> bytes:
    """The content of a run's artifact."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder)
        ).read_bytes()


def _search(condition: str, most: int = 100) -> list[RecordedRun]:
    runs: list[MlflowRun] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=condition,
        order_by=["attributes.start_time DESC"],
        max_results=most,
        output_format="list",
    )
    return [_recorded(run) for run in runs]


def _recorded(run: MlflowRun) -> RecordedRun:
    info, data = run.info, run.data
    return RecordedRun(info.run_id, info.run_name, info.status, data.params, data.metrics, data.tags)


def _is_known(run_id: str) -> bool:
    try:
        return str(mlflow.get_run(run_id).info.lifecycle_stage) == "active"
    except MlflowException:
        return False
