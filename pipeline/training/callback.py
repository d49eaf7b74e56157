"""Training callbacks, and the metrics of an epoch that they receive.

Free of torch: the console's progress is set up before torch is imported, which takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.networks import Network


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch. Losses are mean cross-entropies in nats; `steps` are counted from the start of training."""

    number: int  # from 1
    step: int  # steps taken when it ended
    losses: list[tuple[int, float]]  # (step, loss of that batch), every LOSS_EVERY steps
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float  # at its end
    images_per_second: float
    seconds: float


class CutShortError(Exception):
    """Raised by a callback at the end of an epoch: the training is not worth its remaining epochs."""


class Callback:
    """Hooks that `train` calls as training proceeds; each does nothing unless a subclass overrides it."""

    def start(self, network: "Network") -> None:
        """Receive the network that will be kept, before the first step; its weights follow the training."""

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Training resumes after these epochs and `images` images of the next one."""

    def step(self, images: int, loss: "Tensor") -> None:
        """A batch of `images` images is done; reading `loss` on a GPU makes the CPU wait."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""
