"""Time to an accuracy: a training callback that evaluates the network while its clock is stopped."""

import time
from collections.abc import Callable

from torch import Tensor

from pipeline.data.dataset import Samples
from pipeline.evaluation import evaluate
from pipeline.networks import Network
from pipeline.training.callback import Callback, Epoch


class Reached(Exception):  # noqa: N818 - not an error
    """Ends training early: the judge has measured enough."""


class Judge(Callback):
    """Evaluates the network, with averaged weights, on test digits every `every` steps, and excludes that time.

    The clock starts when the judge is created. Evaluation on the validation digits after an epoch is part of the time.

    Args:
        test: digits to evaluate on, on the device of the training.
        every: number of steps between two evaluations.
        finished: called after each evaluation and each epoch; True ends training with `Reached`.

    Attributes:
        curve: (seconds, accuracy) of each evaluation.
        rates: images per second of each whole epoch.
        images: number of images trained on.
    """

    def __init__(self, test: Samples, every: int, finished: Callable[["Judge"], bool]) -> None:
        self._test, self._every, self._finished = test, every, finished
        self._steps, self._paused, self._paused_in_epoch = 0, 0.0, 0.0
        self.curve: list[tuple[float, float]] = []
        self.rates: list[float] = []
        self.images = 0
        self._started = time.perf_counter()

    def start(self, network: Network) -> None:
        """Set the network to evaluate."""
        self._network = network

    def step(self, images: int, loss: Tensor) -> None:
        """Evaluate after every `every`-th step."""
        self.images += images
        self._steps += 1
        if self._steps % self._every:
            return
        loss.item()  # waits for the device, so that the clock is exact
        stopped = time.perf_counter()
        right = int(evaluate(self._network, self._test).right().sum())
        self.curve.append((stopped - self._started - self._paused, right / len(self._test)))
        pause = time.perf_counter() - stopped
        self._paused += pause
        self._paused_in_epoch += pause
        self._end_if_finished()

    def epoch(self, epoch: Epoch) -> None:
        """Keep the epoch's rate, without the pauses."""
        images = epoch.images_per_second * epoch.seconds
        self.rates.append(images / (epoch.seconds - self._paused_in_epoch))
        self._paused_in_epoch = 0.0
        self._end_if_finished()

    def _end_if_finished(self) -> None:
        if self._finished(self):
            raise Reached
