"""A comparison's runs on Ray: each is a task, on whichever machine of the cluster has room for it.

Ray is an extra, so this module is imported only where `PIPELINE_CLUSTER` is set. Ray repeats a run whose process or
machine has died: it resumes from its checkpoint, in the same MLflow run. Runs are parallel, the steps of one run are
not: docs/scaling.md has the reason.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from logging.handlers import QueueHandler
from urllib.parse import urlsplit

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue

from pipeline import PipelineError, flow
from pipeline.data.dataset import DataSet
from pipeline.settings import CompareSettings
from pipeline.tracking import runs
from pipeline.tracking.connection import connect, one_line
from pipeline.tracking.delivery import Delivery, deliver_left
from pipeline.tracking.runs import RecordedRun
from pipeline.training.devices import choose_device
from pipeline.training.run import Run

log = logging.getLogger(__name__)

ANSWERS_WITHIN = 5.0  # seconds, of the machine at the address
REPEATS = 3  # of a run whose process or machine has died
LOOK_EVERY = 0.5  # seconds between two looks at the log lines of the runs
STOP_SECONDS = 5.0  # for the runs to save their state, after Ctrl-C
# A worker needs the address and the credentials of MLflow. As an argument they are in no log and on no page of Ray.
PASSED_ON = ("MLFLOW_", "AWS_")


class ClusterError(PipelineError):
    """The cluster cannot be used; the message is one sentence with the remedy."""


def measure(planned: Sequence[Run], settings: CompareSettings, parent: str) -> Iterator[tuple[Run, RecordedRun]]:
    """Carry out runs as tasks; yield each when it is finished.

    Args:
        planned: on the same data set.
        settings: the cluster, and what each run needs of it. The state folder is shared by all machines.
        parent: the key of the comparison's run, which MLflow has.

    Raises:
        ClusterError: there is no cluster, or it has no room.
        PipelineError: of the first run that failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.cluster or "local"
    try:
        _require_answer(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        yield from _measure_all(
            planned, settings.model_copy(update={"state_dir": settings.state_dir.resolve()}), parent
        )
    except RayTaskError as error:  # raised in a task
        raise error.as_instanceof_cause() from None
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"The cluster {address} cannot be used ({one_line(error)}): check PIPELINE_CLUSTER, and that all "
            "machines have the same image."
        ) from error
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Refuse an address without an answer: Ray would try for five minutes, and log each attempt."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), ANSWERS_WITHIN).close()


def _measure_all(planned: Sequence[Run], settings: CompareSettings, parent: str) -> Iterator[tuple[Run, RecordedRun]]:
    _require_room(settings)
    dataset, lines = planned[0].dataset, Queue(actor_options={"num_cpus": 0})
    test = dataset.read_test()  # for the workers, which may not have the files; they read it at their end, as always
    shared = ray.put(replace(dataset, read_test=lambda: test))
    environment = {name: text for name, text in os.environ.items() if name.startswith(PASSED_ON)}
    task = ray.remote(_measure).options(
        num_cpus=settings.cpus_per_run, num_gpus=settings.gpus_per_run, max_retries=REPEATS
    )
    waiting = {task.remote(_Plan(run), shared, settings, parent, environment, lines): run for run in planned}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=LOOK_EVERY)
            for record in lines.get_nowait_batch(lines.size()):
                logging.getLogger(record.name).handle(record)
            for each in done:
                yield waiting.pop(each), ray.get(each)
    finally:
        for each in waiting:
            ray.cancel(each)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=STOP_SECONDS) if waiting else None


class _Plan:
    """A run without its data, which are sent once for all."""

    def __init__(self, run: Run) -> None:
        self.recipe, self.seed, self.device, self.mark = run.chosen, run.seed, run.device.type, run.fingerprint
        self.title = f"{run.recipe.name}, seed {run.seed}"


class _Sender(QueueHandler):
    """Sends log records without a wait: a task that waits gives its CPU away, and Ray starts another one as well."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.actor.put_nowait.remote(record)  # type: ignore[attr-defined]


def _measure(
    plan: _Plan, dataset: DataSet, settings: CompareSettings, parent: str, environment: dict[str, str], lines: Queue
) -> RecordedRun:
    """Carry out one run in a process of the cluster."""
    os.environ.update(environment)
    torch.set_num_threads(max(1, int(settings.cpus_per_run)))
    here, pipeline = socket.gethostname(), logging.getLogger("pipeline")
    handler = _Sender(lines)
    handler.setFormatter(logging.Formatter(f"{plan.title} on {here}: %(message)s"))
    pipeline.setLevel(logging.INFO)
    pipeline.addHandler(handler)
    try:
        run = Run(plan.recipe, plan.seed, dataset, choose_device(settings.device))
        if run.fingerprint != plan.mark:
            raise ClusterError(
                f"{plan.title}: {here} would train it otherwise than planned ({run.device.type}, {run.precision}; "
                f"planned on {plan.device}): run this command on a machine like those of the cluster, with the same "
                "image, or set --device."
            )
        connect(settings.state_dir, settings.tracking_timeout)
        # Of a worker that died: before its run is resumed here, as in the next command on one machine.
        deliver_left(settings.state_dir, settings.tracking_patience)
        with Delivery(settings.state_dir, settings.tracking_patience) as delivery, runs.nested_in(parent):
            return flow.measure(run, settings, delivery)
    finally:
        pipeline.removeHandler(handler)


def _require_room(settings: CompareSettings) -> None:
    """Refuse a request that no machine can ever fulfil: Ray would wait for one."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = settings.cpus_per_run, settings.gpus_per_run
    if not any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in machines):
        there = ", ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in machines)
        raise ClusterError(
            f"No machine has {cpus:g} CPUs and {gpus:g} GPUs for a run (there are: {there}): lower "
            "PIPELINE_CPUS_PER_RUN or PIPELINE_GPUS_PER_RUN, or add a machine."
        )
