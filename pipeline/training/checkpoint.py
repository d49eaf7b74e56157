"""Checkpoints: where training stands, in a file, so that a run that was cut off goes on instead of starting over."""

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
    """A checkpoint cannot be used; the message names the file and says what to do."""


class Checkpoint:
    """The checkpoint of one run.

    Args:
        file: where it is kept.
        fingerprint: of the run that it belongs to (see `provenance.fingerprint`).

    Attributes:
        state: what was saved last, None if nothing was: tensors, numbers, texts, lists and dictionaries.
        run_id: the MLflow run that it belongs to; saved with the state.

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
        except Exception as error:  # whatever a damaged file makes of itself
            raise CheckpointError(f"The checkpoint {file} is damaged: {start_over}.") from error
        if owner != fingerprint:
            raise CheckpointError(f"The checkpoint {file} belongs to another recipe, data or code: {start_over}.")

    def save(self, state: dict[str, Any]) -> None:
        """Put `state` in the place of what was saved before, or leave that where the disk refuses."""
        content = io.BytesIO()
        torch.save({"fingerprint": self._fingerprint, "run_id": self.run_id, "state": state}, content)
        partial = self.file.with_suffix(".partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.file)  # atomic: there is the old one or the new one, never half of one
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            log.warning("The checkpoint could not be saved (%s): training goes on, the last one stays.", error)

    def remove(self) -> None:
        """Forget it: the run is over, or is to start over."""
        self.file.unlink(missing_ok=True)
