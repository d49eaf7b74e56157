"""The delivery of reports to MLflow, by a thread of its own: training neither waits for MLflow nor fails with it."""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import mlflow

from pipeline import DELIVERY
from pipeline.tracking import outbox
from pipeline.tracking.connection import LOG_EVERY, AwayError, one_line, redacted
from pipeline.tracking.location import EXPERIMENT
from pipeline.tracking.operations import Recipient
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.registry import RegistryError, Version

log = logging.getLogger(__name__)

EMBEDDED = "the state folder"  # the address of the store in it

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds between two attempts; the last one repeats
LAST_WORDS = 4.0  # seconds in which an interrupted command still delivers: `docker stop` kills after ten


class Delivery:
    """Operations in, requests to MLflow out, in order: `with Delivery(...) as delivery: delivery.put(...)`.

    The end of the block waits for MLflow. If an exception leaves it, the wait is short, and the rest is kept.

    Args:
        state_dir: the folder of the outbox.
        patience: seconds without any progress after which the wait ends.
        journal: one that an earlier command left; a new one by default.

    Attributes:
        journal: of this command.
        experiment_id: of the runs.

    Raises:
        AwayError: at the end of the block, if MLflow does not answer; everything is kept.
    """

    def __init__(self, state_dir: Path, patience: float, journal: Outbox | None = None) -> None:
        self._patience = patience
        self._uri = redacted(mlflow.get_tracking_uri())
        self.journal = journal or outbox.create(state_dir, address_of(state_dir))
        self._recipient = Recipient(self.journal)
        self._changed = threading.Condition()
        self._ending = False
        self._problem: str | None = None
        self._progress = time.monotonic()  # of the last operation that was delivered, or came
        experiment = mlflow.get_experiment_by_name(EXPERIMENT)
        assert experiment  # `connect` selects it
        self.experiment_id: str = experiment.experiment_id
        # A daemon, and none of its requests is waited for: a server that hangs cannot hold the process.
        self._thread = threading.Thread(target=self._run, name=DELIVERY, daemon=True)

    def put(self, name: str, run: str, values: dict[str, Any], files: Mapping[str, bytes] | None = None) -> None:
        """Write an operation to the disk, to be delivered after those before it.

        Raises:
            OutboxError: the disk is full, or the folder cannot be written.
        """
        with self._changed:
            if not self.journal.pending():
                self._progress = time.monotonic()
            self.journal.append(name, run, values, files or {})
            self._changed.notify_all()

    def version(self, run: str) -> Version:
        """The version that was registered of a run, when everything is delivered.

        Raises:
            RegistryError: MLflow refused to register it.
        """
        if run not in self._recipient.registered:
            raise RegistryError("MLflow refused to register the model; the log has its reason.")
        return self._recipient.registered[run]

    def __enter__(self) -> "Delivery":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            end_runs(self)
            if kind is None:
                self._wait(self._patience)
            else:
                self._wait(min(self._patience, LAST_WORDS), quietly=True)
        finally:
            with self._changed:
                self._ending = True
                left = len(self.journal.pending())
                self._changed.notify_all()
            self._thread.join(0.5 if left else None)
        if kind is None and left:
            raise self._away(left)
        if left:
            log.warning("%d reports for MLflow are kept in %s, for the next command.", left, self.journal.folder)

    def wait(self) -> None:
        """Wait until everything is delivered.

        Raises:
            AwayError: MLflow does not answer; everything is kept.
        """
        self._wait(self._patience)
        if left := len(self.journal.pending()):
            raise self._away(left)

    def _away(self, left: int) -> AwayError:
        return AwayError(
            f"MLflow ({self._uri}) did not take the last {left} reports ({self._problem or 'no answer'}): they "
            f"are kept in {self.journal.folder}. Run `python -m pipeline publish` when it answers."
        )

    def _wait(self, patience: float, quietly: bool = False) -> None:
        """Wait until everything is delivered, or nothing was for `patience` seconds."""
        started = logged = time.monotonic()
        with self._changed:
            while self.journal.pending():
                now = time.monotonic()
                if now - max(started, self._progress) >= patience or (quietly and now - started >= patience):
                    return
                if not quietly and now - logged >= LOG_EVERY:
                    logged = now
                    log.info(
                        "Waiting for MLflow: %d reports left, since %.0f s (%s).",
                        len(self.journal.pending()), now - started, self._problem or "no error",
                    )  # fmt: skip
                self._changed.wait(0.2)

    def _run(self) -> None:
        try:
            self._deliver()
        finally:
            self.journal.close()

    def _deliver(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self.journal.pending())
                if self._ending:
                    return
                operation = self.journal.pending()[0]
            try:
                self._recipient.receive(operation)
                with self._changed:
                    self.journal.advance()
            except Exception as error:  # libraries below MLflow raise almost anything
                self._problem = one_line(error)[:300]
                if not failures:
                    log.warning("Reports to MLflow wait in %s: %s", self.journal.folder, self._problem)
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1
                continue
            if failures:
                log.info("MLflow answers again.")
            failures, self._problem, self._progress = 0, None, time.monotonic()
            with self._changed:
                self._changed.notify_all()


def deliver_left(state_dir: Path, patience: float) -> int:
    """Deliver what earlier commands left, and end their runs that no process continues.

    Returns:
        The number of operations that were delivered.

    Raises:
        AwayError: MLflow does not answer; everything is kept.
    """
    delivered = 0
    for journal in outbox.left(state_dir):
        if journal.address != address_of(state_dir):
            log.warning(
                "%d reports in %s are for the MLflow server at %s: set MLFLOW_TRACKING_URI to it, and run "
                "`python -m pipeline publish`.", len(journal.pending()), journal.folder, journal.address,
            )  # fmt: skip
            journal.close()
            continue
        delivery = Delivery(state_dir, patience, journal)
        end_runs(delivery)
        count = len(journal.pending())
        if count:
            log.info("Delivering %d reports of an earlier command to MLflow.", count)
        with delivery:
            delivered += count
    return delivered


def address_of(state_dir: Path) -> str:
    """The store in use, without a password."""
    uri: str = mlflow.get_tracking_uri()
    return EMBEDDED if uri == f"sqlite:///{state_dir / 'mlflow.db'}" else redacted(uri)


def end_runs(delivery: Delivery) -> None:
    """End the runs that were cut off: FINISHED with a version, otherwise KILLED, until one is resumed."""
    complete = {operation.run for operation in delivery.journal.operations if operation.name == "model"}
    for run in delivery.journal.open_runs():
        console = delivery.journal.folder / f"{run}.log"
        if console.exists():
            delivery.put("artifacts", run, {}, {"console.log": console.read_bytes()})
        delivery.put("end", run, {"status": "FINISHED" if run in complete else "KILLED", "unless_ended": True})
