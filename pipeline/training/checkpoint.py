"""Checkpoints: the training state in a file, from which an interrupted run resumes."""

import io
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipeline import PipelineError

log = logging.getLogger(__name__)


class CheckpointError(PipelineError):
    """A checkpoint is unusable; the message names the file and the remedy."""


class Checkpoint:
    """The checkpoint of one run.

    Args:
        file: its place; created by the first `save`.
        fingerprint: of the run (see `pipeline.training.fingerprint`).

    Attributes:
        state: the saved state, None if there is none: tensors, numbers, texts, lists and dictionaries.
        run_id: names the MLflow run (see `pipeline.tracking.runs`); saved with the state, or before there is one.

    Raises:
        CheckpointError: the file is damaged, or belongs to another run.
    """

    def __init__(self, file: Path, fingerprint: str) -> None:
        self.file, self._fingerprint = file, fingerprint
        self.state: dict[str, Any] | None = None
        self.run_id: str | None = None
        if not file.exists():
            return
        start_over = "delete it, or start over with --fresh"
        try:
            found = torch.load(file, weights_only=True)
            owner, self.run_id, self.state = found["fingerprint"], found["run_id"], found["state"]
        except Exception as error:  # a damaged file can raise almost anything
            raise CheckpointError(f"The checkpoint {file} is damaged: {start_over}.") from error
        if owner != fingerprint:
            raise CheckpointError(f"The checkpoint {file} belongs to another recipe, data or code: {start_over}.")

    def save(self, state: dict[str, Any] | None) -> None:
        """Replace the saved state by `state`; if writing fails, log it and keep the previous one.

        None stands for the state before the first step: the run alone is saved.
        """
        content = io.BytesIO()
        torch.save({"fingerprint": self._fingerprint, "run_id": self.run_id, "state": state}, content)
        partial = self.file.with_suffix(".partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.file)  # atomic: a crash leaves the old state or the new one
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            log.warning("The checkpoint could not be saved (%s). Training continues; the previous one is kept.", error)

    def remove(self) -> None:
        """Delete the file, after the run or to start over."""
        self.file.unlink(missing_ok=True)
