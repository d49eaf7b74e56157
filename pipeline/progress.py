"""Progress of training: live bars on a terminal, and one log line per run and per epoch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipeline.logs import is_json, log_as_json
from pipeline.training.callback import Callback, Epoch

if TYPE_CHECKING:  # logging is set up before torch is imported, which takes seconds
    from collections.abc import Sequence

    import torch
    from torch import Tensor


log = logging.getLogger(__name__)

console = Console(stderr=True)
DAY = 24 * 3600.0  # seconds


def set_up_logging(log_format: str = "text") -> None:
    """Log to the console: `json`, or text: above the bars on a terminal, otherwise plain lines with the time."""
    logging.getLogger("pipeline").setLevel(logging.INFO)
    if log_format == "json":
        log_as_json()
        return
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class Bars(Progress):
    """The display; off a terminal, and with a log as JSON, it draws nothing."""

    def __init__(self) -> None:
        texts = TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")
        super().__init__(
            texts[0], BarColumn(), TaskProgressColumn(), texts[1], TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal or is_json(),
            speed_estimate_period=DAY,  # an epoch can take longer than rich's 30 s
        )  # fmt: skip


class RunProgress(Bars):
    """The bar of a sequence of runs; pass it to the `EpochProgress` of each run.

    Args:
        runs: number of runs.
        finished: number of runs finished earlier.
    """

    def __init__(self, runs: int, finished: int) -> None:
        super().__init__()
        self._runs, self._begun = runs, finished
        self.task = self.add_task("", total=runs, completed=finished, numbers="")

    def begin(self, title: str) -> None:
        """Begin the next run, and log it."""
        self._begun += 1
        described = f"run {self._begun} of {self._runs}: {title}"
        log.info("%s", described)
        self.update(self.task, description=described)

    def done(self, title: str) -> None:
        """Count a run that was carried out elsewhere, and log it."""
        self._begun += 1
        log.info("run %d of %d is finished: %s", self._begun, self._runs, title)
        self.update(self.task, advance=1, description=f"{self._begun} of {self._runs} runs")


class EpochProgress(Callback):
    """Training callbacks that show the progress of one run: `with EpochProgress(...) as progress: train(...)`.

    Args:
        title: name of what is trained.
        epochs: number of epochs.
        images: number of digits per epoch.
        device: of the training. The loss of a batch is shown on the CPU only: elsewhere, reading it waits for the GPU.
        runs: display of the surrounding runs, if any: rich allows one display at a time.
    """

    def __init__(
        self, title: str, epochs: int, images: int, device: torch.device, runs: RunProgress | None = None
    ) -> None:
        self._title, self._epochs, self._images, self._runs = title, epochs, images, runs
        self._reads_loss = device.type == "cpu"
        self._trained, self._loss, self._accuracy = 0, "", ""  # images, by this process
        self._bars = runs or Bars()
        self._id = self._bars.add_task(title, total=epochs * images, numbers="")
        self._task = self._bars.tasks[-1]

    def __enter__(self) -> EpochProgress:
        self._bars.start()  # does nothing if the runs have started it
        return self

    def __exit__(self, *_: object) -> None:
        if self._runs:
            self._bars.remove_task(self._id)
        else:
            self._bars.stop()

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Start the bar at the checkpoint, and log it."""
        self._bars.reset(self._id, completed=len(epochs) * self._images + images)
        if self._runs:
            self._runs.advance(self._runs.task, len(epochs) / self._epochs)
        log.info("%s resumes from its checkpoint after %d of %d epochs.", self._title, len(epochs), self._epochs)

    def step(self, images: int, loss: Tensor) -> None:
        """Advance the bar."""
        if self._bars.disable:
            return
        if self._reads_loss:
            self._loss = f"loss {loss.item():.3f}"
        epoch = int(self._task.completed // self._images) + 1
        self._trained += images
        rate = self._trained / max(self._task.elapsed or 0, 1e-9)
        self._bars.update(
            self._id,
            advance=images,
            description=f"{self._title}, epoch {epoch}/{self._epochs}",
            numbers="  ".join(filter(None, [self._loss, self._accuracy, f"{rate:,.0f} images/s"])),
        )

    def epoch(self, epoch: Epoch) -> None:
        """Log the epoch."""
        if self._runs:
            self._runs.advance(self._runs.task, 1 / self._epochs)
        self._accuracy = f"validation {epoch.validation_accuracy:.2%}"
        if not self._reads_loss:
            self._loss = f"loss {epoch.train_loss:.3f}"
        log.info(
            "%s, epoch %d/%d: loss %.4f, validation accuracy %.2f %%, %s images/s, %.1f s",
            self._title, epoch.number, self._epochs, epoch.train_loss, 100 * epoch.validation_accuracy,
            f"{epoch.images_per_second:,.0f}", epoch.seconds,
        )  # fmt: skip
