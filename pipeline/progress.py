"""Progress on the console: live bars on a terminal, a line per epoch and per run in the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipeline.training.callback import Callback, Epoch

if TYPE_CHECKING:  # logging is set up before torch is imported, which takes seconds
    from collections.abc import Sequence
    from types import TracebackType

    import torch
    from torch import Tensor


log = logging.getLogger(__name__)

console = Console(stderr=True)
DAY = 24 * 3600.0  # seconds


def set_up_logging() -> None:
    """Log to the console: beside the bar on a terminal, plain lines with the time elsewhere."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO)


class RunProgress:
    """Runs that are trained one after another, above the epochs of the one under way.

    `with RunProgress(...) as runs: runs.begin(...); with EpochProgress(..., runs): ...`

    Args:
        runs: how many there are.
        finished: how many of them were done before.
    """

    def __init__(self, runs: int, finished: int) -> None:
        self._runs, self._begun = runs, finished
        self.bars = _bars()
        self._task = self.bars.add_task("", total=runs, completed=finished, numbers="")

    def __enter__(self) -> RunProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def begin(self, title: str) -> None:
        """The next run begins: a line for the log."""
        self._begun += 1
        described = f"run {self._begun} of {self._runs}: {title}"
        log.info("%s", described)
        self.bars.update(self._task, description=described)

    def advance(self, share: float) -> None:
        """Such a share of a run is done."""
        self.bars.advance(self._task, share)


class EpochProgress(Callback):
    """A reporter of training for people: `with EpochProgress(...) as progress: train(..., [progress])`.

    Args:
        title: what is trained.
        epochs: how many there will be.
        images: digits in an epoch.
        device: where training runs; only on the CPU is a batch's loss there without waiting.
        runs: the runs that this is one of: both show on one display, since rich refuses a second.
    """

    def __init__(
        self, title: str, epochs: int, images: int, device: torch.device, runs: RunProgress | None = None
    ) -> None:
        self._title, self._epochs, self._images = title, epochs, images
        self._reads_loss = device.type == "cpu"
        self._done, self._resumed, self._loss, self._accuracy = 0, 0, "", ""
        self._started = time.monotonic()
        self._runs = runs
        self._bars = runs.bars if runs else _bars()
        self._task = self._bars.add_task(title, total=epochs * images, numbers="")

    def __enter__(self) -> EpochProgress:
        if not self._runs:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runs:
            self._bars.remove_task(self._task)
        else:
            self._bars.stop()

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Begin where training goes on."""
        self._done = self._resumed = len(epochs) * self._images + images
        if self._runs:
            self._runs.advance(len(epochs) / self._epochs)
        log.info("%s goes on from its checkpoint: %d of %d epochs are done.", self._title, len(epochs), self._epochs)

    def step(self, images: int, loss: Tensor) -> None:
        """Move the bar on."""
        self._done += images
        if self._bars.disable:
            return
        if self._reads_loss:
            self._loss = f"loss {loss.item():.3f}"
        rate = (self._done - self._resumed) / max(time.monotonic() - self._started, 1e-9)
        epoch = min((self._done - 1) // self._images + 1, self._epochs)
        self._bars.update(
            self._task,
            completed=self._done,
            description=f"{self._title}, epoch {epoch}/{self._epochs}",
            numbers="  ".join(filter(None, [self._loss, self._accuracy, f"{rate:,.0f} images/s"])),
        )

    def epoch(self, epoch: Epoch) -> None:
        """A line for the log."""
        if self._runs:
            self._runs.advance(1 / self._epochs)
        self._accuracy = f"validation {epoch.validation_accuracy:.2%}"
        if not self._reads_loss:
            self._loss = f"loss {epoch.train_loss:.3f}"
        log.info(
            "%s, epoch %d/%d: loss %.4f, validation accuracy %.2f %%, %s images/s, %.1f s",
            self._title, epoch.number, self._epochs, epoch.train_loss, 100 * epoch.validation_accuracy,
            f"{epoch.images_per_second:,.0f}", epoch.seconds,
        )  # fmt: skip


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=DAY,  # an epoch can take longer than rich's half minute
    )
