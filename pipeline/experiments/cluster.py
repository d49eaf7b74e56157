"""The runs of a comparison or a search on Ray: each is a task, on whichever machine of the cluster has room for it.

Ray is an extra, so this module is imported only where `PIPELINE_CLUSTER` is set. Ray repeats a run whose process or
machine has died: it resumes from its checkpoint, in the same MLflow run. Runs are parallel, the steps of one run are
not: docs/scaling.md has the reason.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from logging.handlers import QueueHandler
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import PipelineError
from pipeline.data.dataset import DataSet
from pipeline.flow import checkpoint_of
from pipeline.settings import ClusterSettings
from pipeline.tracking import runs
from pipeline.tracking.connection import connect, one_line
from pipeline.tracking.delivery import EMBEDDED, Delivery, address_of, deliver_left
from pipeline.tracking.turns import turn
from pipeline.training.devices import choose_device
from pipeline.training.run import Run

log = logging.getLogger(__name__)

Result = TypeVar("Result")
# The work of a task on its run, such as `flow.measure`; pickled.
Work = Callable[[Run, ClusterSettings, Delivery], Result]

ANSWERS_WITHIN = 5.0  # seconds, of the machine at the address
REPEATS = 3  # of a run whose process or machine has died
LOOK_EVERY = 0.5  # seconds between two looks at the log lines of the runs
STOP_SECONDS = 5.0  # for the runs to save their state, after Ctrl-C
# A worker needs the address and the credentials of MLflow. As an argument they are in no log and on no page of Ray.
PASSED_ON = ("MLFLOW_", "AWS_")
ADDRESS = "MLFLOW_TRACKING_URI"


class ClusterError(PipelineError):
    """The cluster cannot be used; the message is one sentence with the remedy."""


def carry_out(
    jobs: Iterable[tuple[Run, Work[Result]]], dataset: DataSet, settings: ClusterSettings, parent: str
) -> Iterator[tuple[Run, Result]]:
    """Carry out runs as tasks; yield each, with what its work returned, when it is finished.

    Args:
        jobs: read as the cluster has room for them: the next one may depend on the results of those before.
        dataset: of all runs.
        settings: the cluster, and what each run needs of it. The state folder is shared by all machines.
        parent: the key of the run that these are parts of, which MLflow has.

    Raises:
        ClusterError: there is no cluster, or it has no room.
        PipelineError: of the first run that failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.cluster or "local"
    try:
        _require_answer(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own
        yield from _carry_out(iter(jobs), dataset, settings, parent)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"The cluster {address} cannot be used ({one_line(error)}): check PIPELINE_CLUSTER, and that all "
            "machines have the same image."
        ) from error
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Refuse an address without an answer: Ray would try for five minutes, and log each attempt."""
    parts = urlsplit(f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), ANSWERS_WITHIN).close()


def _carry_out(
    jobs: Iterator[tuple[Run, Work[Result]]], dataset: DataSet, settings: ClusterSettings, parent: str
) -> Iterator[tuple[Run, Result]]:
    _require_room(settings)
    # On this machine: Ray would place it on any, whose death would end the comparison.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    test = dataset.read_test()  # for the workers, which may not have the files; they read it at their end, as always
    shared = ray.put(replace(dataset, read_test=lambda: test))
    environment = {name: text for name, text in os.environ.items() if name.startswith(PASSED_ON)}
    if address_of(settings.state_dir) == EMBEDDED:
        environment.pop(ADDRESS, None)  # it may be relative to this folder
    # With `fresh`, a run that Ray repeats would begin again.
    changed = {"state_dir": settings.state_dir.resolve(), "fresh": False}
    theirs = settings.model_copy(update=changed)
    task = ray.remote(_work).options(
        num_cpus=settings.cpus_per_run, num_gpus=settings.gpus_per_run, max_retries=REPEATS
    )
    waiting: dict[ray.ObjectRef, Run] = {}
    try:
        while True:
            for run, work in islice(jobs, max(0, _room(settings) - len(waiting))):
                _require_gpu(run, settings)
                if settings.fresh:
                    checkpoint_of(run, settings.state_dir).unlink(missing_ok=True)
                waiting[task.remote(_Plan(run), work, shared, theirs, parent, environment, lines)] = run
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), timeout=LOOK_EVERY)
            for record in lines.get_nowait_batch(lines.size()):
                logging.getLogger(record.name).handle(record)
            for each in done:
                run = waiting.pop(each)
                yield run, _result(each, run)
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


def _work(
    plan: _Plan,
    work: Work[Result],
    dataset: DataSet,
    settings: ClusterSettings,
    parent: str,
    environment: dict[str, str],
    lines: Queue,
) -> Result:
    """Carry out one run in a process of the cluster."""
    os.environ.pop(ADDRESS, None)  # of the process that started Ray
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
        with turn(settings.state_dir, "delivering"):  # it is delivered, or not yet begun, when the next run begins
            deliver_left(settings.state_dir, settings.tracking_patience)
        with Delivery(settings.state_dir, settings.tracking_patience) as delivery, runs.nested_in(parent):
            return work(run, settings, delivery)
    finally:
        pipeline.removeHandler(handler)


def _room(settings: ClusterSettings) -> int:
    """The number of runs that the machines can carry out at once."""
    needs = {"CPU": settings.cpus_per_run, "GPU": settings.gpus_per_run}
    return sum(
        int(min((each.get(kind, 0) / number for kind, number in needs.items() if number), default=1))
        for each in _machines()
    )


def _result(task: ray.ObjectRef, run: Run) -> Any:
    try:
        return ray.get(task)
    except RayTaskError as error:
        title = f"{run.recipe.name}, seed {run.seed}"
        if isinstance(error.cause, PipelineError):
            raise type(error.cause)(f"{title}: {error.cause}") from None
        raise ClusterError(f"{title}: {one_line(error.cause or error)}") from error


def _require_gpu(run: Run, settings: ClusterSettings) -> None:
    """Refuse runs on GPUs that Ray knows nothing of: it would send them all to the first one."""
    if run.device.type == "cuda" and not settings.gpus_per_run:
        raise ClusterError("A run on a GPU must ask for it: set --gpus-per-run 1, or --device cpu.")


def _require_room(settings: ClusterSettings) -> None:
    """Refuse a request that no machine can ever fulfil: Ray would wait for one."""
    if not _room(settings):
        there = ", ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in _machines())
        raise ClusterError(
            f"No machine has {settings.cpus_per_run:g} CPUs and {settings.gpus_per_run:g} GPUs for a run (there are: "
            f"{there}): lower PIPELINE_CPUS_PER_RUN or PIPELINE_GPUS_PER_RUN, or add a machine."
        )


def _machines() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
