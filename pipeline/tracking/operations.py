"""The operations of the outbox, carried out in MLflow: each may be repeated, and has its effect once.

A run is named by a key of the pipeline's own, since MLflow chooses its id only when it creates the run. The key has the
form of an id, and the id replaces it in tags and files.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from requests import HTTPError

from pipeline.tracking import registry
from pipeline.tracking.connection import once, one_line
from pipeline.tracking.location import EXPERIMENT
from pipeline.tracking.outbox import Operation, Outbox
from pipeline.tracking.registry import Version

log = logging.getLogger(__name__)

KEY = "run_key"  # the tag with the run's key
GONE = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # codes of errors that no repetition mends
TOO_LARGE = 413


class Recipient:
    """MLflow, as the receiver of operations.

    Args:
        journal: that the operations come from.

    Attributes:
        registered: the version that was registered, by the key of its run.
    """

    def __init__(self, journal: Outbox) -> None:
        self._journal = journal
        self._client = mlflow.MlflowClient()
        self._ids: dict[str, str] = {}  # by key
        self._epochs: dict[str, set[int]] = {}  # by key: those that MLflow has
        self._experiment: str | None = None
        self.registered: dict[str, Version] = {}

    def receive(self, operation: Operation) -> None:
        """Carry out an operation. One that MLflow refuses for good is logged and left out.

        Raises:
            Exception: MLflow did not answer, or failed; the operation may be repeated.
        """
        does: Callable[[Operation], None] = getattr(self, f"_{operation.name}")
        try:
            does(operation)
        except (MlflowException, HTTPError) as error:
            if not _is_refusal(error):
                raise
            log.warning("MLflow refuses a part of the run (%s): it is left out. %s", operation.name, one_line(error))

    def _create(self, operation: Operation) -> None:
        """Create the run, or resume an interrupted one, which may become a part of another run."""
        values, key = operation.values, operation.run
        tags = dict(values["tags"]) | {KEY: key}
        if values["parent"]:
            tags[MLFLOW_PARENT_RUN_ID] = self._id(values["parent"])
        found = self._find(key)
        if not found:
            with once():
                self._client.create_run(self._experiment_id(), operation.time, tags, values["name"])
            found = self._find(key)
        else:
            self._client.log_batch(found[0].info.run_id, tags=[RunTag(*tag) for tag in tags.items()])
            if found[0].info.status in ("KILLED", "FAILED"):
                self._client.update_run(found[0].info.run_id, "RUNNING")
        for duplicate in found[1:]:  # of an attempt that had seemed to fail
            self._client.delete_run(duplicate.info.run_id)
        self._ids[key] = found[0].info.run_id

    def _parameters(self, operation: Operation) -> None:
        parameters = [Param(name, value) for name, value in operation.values.items()]
        self._client.log_batch(self._id(operation.run), params=parameters)

    def _tags(self, operation: Operation) -> None:
        tags = [RunTag(name, self._with_ids(value.encode()).decode()) for name, value in operation.values.items()]
        self._client.log_batch(self._id(operation.run), tags=tags)

    def _metrics(self, operation: Operation) -> None:
        # MLflow stores a metric with the same time, step and value once.
        metrics = [Metric(name, value, operation.time, 0) for name, value in operation.values.items()]
        self._client.log_batch(self._id(operation.run), metrics)

    def _epoch(self, operation: Operation) -> None:
        number, key, run_id = operation.values["number"], operation.run, self._id(operation.run)
        if key not in self._epochs:
            self._epochs[key] = {metric.step for metric in self._client.get_metric_history(run_id, "train_loss")}
        if number in self._epochs[key]:
            return  # a resumed run reports those before the interruption again
        metrics = [Metric(name, value, operation.time, step) for name, value, step in operation.values["metrics"]]
        self._client.log_batch(run_id, metrics)
        self._epochs[key].add(number)

    def _datasets(self, operation: Operation) -> None:
        inputs = [
            DatasetInput(Dataset(**each["dataset"]), [InputTag(MLFLOW_DATASET_CONTEXT, each["context"])])
            for each in operation.values["inputs"]
        ]
        self._client.log_inputs(self._id(operation.run), inputs)

    def _artifacts(self, operation: Operation) -> None:
        with self._files(operation) as folder:
            self._client.log_artifacts(self._id(operation.run), str(folder))

    def _model(self, operation: Operation) -> None:
        run_id, unless = self._id(operation.run), operation.values["unless"]
        version = registry.find_intact(unless) if unless else None
        if version and version.run_id != run_id:
            log.info("Version %s, of the same settings, data and code, was registered meanwhile.", version.number)
        else:
            with self._files(operation) as folder:
                version = registry.register(folder / "model.onnx", np.load(folder / "example.npy"), run_id)
        self.registered[operation.run] = version

    def _end(self, operation: Operation) -> None:
        run_id = self._id(operation.run)
        if operation.values["unless_ended"] and self._client.get_run(run_id).info.status != "RUNNING":
            return
        self._client.set_terminated(run_id, operation.values["status"], operation.time)

    def _id(self, key: str) -> str:
        if key not in self._ids:
            found = self._find(key)
            if not found:
                raise MlflowException.invalid_parameter_value(f"The run {key} is deleted.")
            self._ids[key] = found[0].info.run_id
        return self._ids[key]

    def _find(self, key: str) -> list[MlflowRun]:
        """The runs with a key, the oldest first."""
        found: list[MlflowRun] = self._client.search_runs(
            [self._experiment_id()], f"tags.{KEY} = '{key}'", order_by=["attributes.start_time ASC"]
        )
        return found

    def _experiment_id(self) -> str:
        if self._experiment is None:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise MlflowException.invalid_parameter_value(f"The experiment {EXPERIMENT} is deleted.")
            self._experiment = found.experiment_id
        return self._experiment

    def _with_ids(self, content: bytes) -> bytes:
        """The content with the ids of runs in place of their keys: of the same length, so that a model stays whole."""
        for key in {operation.run for operation in self._journal.operations}:
            if key.encode() in content:
                content = content.replace(key.encode(), self._id(key).encode())
        return content

    @contextmanager
    def _files(self, operation: Operation) -> Iterator[Path]:
        """A copy of the operation's files, with the ids of runs in place of their keys."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "files"
            shutil.copytree(operation.files, folder)
            for file in (path for path in folder.rglob("*") if path.is_file()):
                file.write_bytes(self._with_ids(file.read_bytes()))
            yield folder


def _is_refusal(error: MlflowException | HTTPError) -> bool:
    if isinstance(error, HTTPError):
        return error.response is not None and error.response.status_code == TOO_LARGE
    return error.error_code in GONE
