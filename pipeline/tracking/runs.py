"""Runs in MLflow: starting one, logging to it, finding those of earlier commands."""

import logging
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

import mlflow
import mlflow.data.numpy_dataset
import numpy as np
from matplotlib.figure import Figure
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.dataset import DataSet, Samples
from pipeline.recipes import Recipe
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.descriptions import MODE, NOTE
from pipeline.tracking.location import EXPERIMENT
from pipeline.tracking.operations import KEY
from pipeline.training.callback import Callback, Epoch

log = logging.getLogger(__name__)

CONSOLE = "console.log"  # the artifact
_surrounding: ContextVar[str | None] = ContextVar("surrounding", default=None)  # the key of the run around


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
    """The run that is being logged to; `start` makes one. Nothing here waits for MLflow: reports go to the outbox.

    Attributes:
        key: the run's name in reports; MLflow's id replaces it in tags and files when they are delivered.
        resumed: whether it continues a run that was interrupted.
    """

    def __init__(self, delivery: Delivery, key: str, recorded: RecordedRun, resumed: bool) -> None:
        self.key, self.resumed = key, resumed
        self._delivery, self._recorded = delivery, recorded
        self._page = f"#/experiments/{delivery.experiment_id}/runs/{key}"

    def page_of(self, artifact: str) -> str:
        """The address of MLflow's page of an artifact, for a link on another page of MLflow."""
        return f"{self._page}/artifacts/{artifact}?{MODE}"

    def describe(self, text: str) -> None:
        """Set the run's description, in Markdown."""
        self._delivery.put("tags", self.key, {NOTE: text})

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log settings and choices by name."""
        texts = {name: str(value) for name, value in parameters.items()}
        self._recorded.parameters.update(texts)
        self._delivery.put("parameters", self.key, texts)

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
        self._recorded.metrics.update(metrics)
        self._delivery.put("metrics", self.key, dict(metrics))

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch once: its metrics are indexed by its number, the losses of batches by step."""
        of_epoch = {
            "train_loss": epoch.train_loss,
            "validation_loss": epoch.validation_loss,
            "validation_accuracy": epoch.validation_accuracy,
            "learning_rate": epoch.learning_rate,
            "images_per_second": epoch.images_per_second,
        }
        metrics: list[tuple[str, float, int]] = [(name, value, epoch.number) for name, value in of_epoch.items()]
        metrics += [("step_loss", loss, step) for step, loss in epoch.losses]
        self._delivery.put("epoch", self.key, {"number": epoch.number, "metrics": metrics})

    def log_dataset(self, dataset: DataSet) -> None:
        """Log the training and the validation split as the run's inputs, with the data set's digest."""
        inputs = []
        for context, samples in (("training", dataset.train), ("validation", dataset.validation)):
            source = mlflow.data.numpy_dataset.from_numpy(
                samples.images.numpy(),
                targets=samples.labels.numpy(),
                source=CodeDatasetSource({"source": dataset.source}),
                # MLflow merges inputs of the same name and digest.
                name=f"{dataset.task.dataset}-{dataset.subset}-{context}",
                digest=dataset.digest[:36],  # MLflow's limit
            )
            inputs.append({"context": context, "dataset": dict(source._to_mlflow_entity())})
        self._delivery.put("datasets", self.key, {"inputs": inputs})

    def log_predictions(self, samples: Samples, probabilities: Tensor) -> None:
        """Log labels and PyTorch's probabilities of the test split as `predictions/test.npz`."""
        content = BytesIO()
        np.savez_compressed(content, labels=samples.labels.numpy(), probabilities=probabilities.numpy())
        self.log_files({"predictions/test.npz": content.getvalue()})

    def log_files(self, files: Mapping[str, bytes | str]) -> None:
        """Log artifacts by path: bytes as they are, text as UTF-8."""
        encoded = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        self._delivery.put("artifacts", self.key, {}, encoded)

    def log_figure(self, figure: Figure, path: str) -> None:
        """Log a figure as an artifact."""
        content = BytesIO()
        figure.savefig(content)
        self.log_files({path: content.getvalue()})

    def register(self, file: Path, example: NDArray[np.uint8], unless: str | None = None) -> None:
        """Register an exported file as a version (see `pipeline.tracking.registry.register`).

        Args:
            file: one ONNX file that keeps the contract.
            example: uint8 [n, 28, 28].
            unless: a fingerprint; if another run with it has a version by then, that one is taken.
        """
        array = BytesIO()
        np.save(array, example)
        contents = {"model.onnx": file.read_bytes(), "example.npy": array.getvalue()}
        self._delivery.put("model", self.key, {"unless": unless}, contents)

    def recorded(self) -> RecordedRun:
        """Everything logged so far."""
        return self._recorded


class EpochLogger(Callback):
    """Logs the metrics of each epoch."""

    def __init__(self, run: ActiveRun) -> None:
        self._run = run

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Log the epochs that this run lacks: it may not be the run that was interrupted."""
        for epoch in epochs:
            self._run.log_epoch(epoch)

    def epoch(self, epoch: Epoch) -> None:
        """Log the epoch."""
        self._run.log_epoch(epoch)


@contextmanager
def nested_in(key: str) -> Iterator[None]:
    """Runs that start within the block are parts of the run with this key."""
    token = _surrounding.set(key)
    try:
        yield
    finally:
        _surrounding.reset(token)


@contextmanager
def start(delivery: Delivery, name: str, tags: dict[str, str], interrupted: str | None = None) -> Iterator[ActiveRun]:
    """Start a run, with its console log as an artifact; it is marked as failed if the block raises.

    Within the block of another run it is nested in that one.

    Args:
        delivery: takes the reports.
        name: shown by MLflow.
        tags: of the run.
        interrupted: the key of an interrupted run, which is resumed if MLflow still has it.
    """
    known = find_by_key(interrupted) if interrupted else None
    key, parent = interrupted or uuid.uuid4().hex, _surrounding.get()
    console = delivery.journal.folder / f"{key}.log"
    if known and any(file.path == CONSOLE for file in mlflow.MlflowClient().list_artifacts(known.id)):
        console.write_bytes(read_artifact(known.id, CONSOLE))
    recorded = replace(known, id=key) if known else RecordedRun(key, name, "RUNNING", {}, {}, tags)
    active = ActiveRun(delivery, key, recorded, known is not None)
    delivery.put("create", key, {"name": name, "tags": resolve_tags(tags), "parent": parent})
    handler = logging.FileHandler(console)  # appends to the log of an interrupted run
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    status = "FAILED"
    try:
        with nested_in(key):
            yield active
        status = "FINISHED"
    except Exception as error:
        log.error("The run failed: %s", error)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        active.log_files({CONSOLE: console.read_bytes()})
        delivery.put("end", key, {"status": status, "unless_ended": False})


def finish(run_id: str) -> None:
    """End a run whose version is registered, if it is there and still counts as running."""
    client = mlflow.MlflowClient()
    with suppress(MlflowException):  # it is deleted
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id)


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


def find_by_key(key: str) -> RecordedRun | None:
    """The run with a key that the pipeline gave it, if MLflow has it."""
    runs = _search(f"tags.{KEY} = '{key}'", 1)
    return runs[0] if runs else None
