"""The training loop: digits and a recipe in, a trained network and its history out.

The data set is one uint8 tensor on the device. A batch is cut out of it by a random permutation, bent and normalised
as a whole, and never decoded picture by picture.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline import PipelineError
from pipeline.data.dataset import Digits
from pipeline.evaluation import evaluate
from pipeline.networks import Network, build, normalise
from pipeline.recipes import Augmentation, Recipe
from pipeline.training.augmentation import distort
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.devices import choose_precision, make_optimizer, replayed
from pipeline.training.schedule import make_schedule
from pipeline.training.signals import stop_on_signal

LOSS_EVERY = 50  # steps between two losses that are kept


class TrainingError(PipelineError):
    """Training cannot go on; the message is one sentence that says where and why."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought. Losses are mean cross-entropies in nats; `steps` counts from the start of training."""

    number: int  # from 1
    step: int  # steps taken when it ended
    losses: list[tuple[int, float]]  # (step, loss of that batch), every LOSS_EVERY steps
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float  # at its end
    images_per_second: float
    seconds: float


class Reporter(Protocol):
    """Who wants to know how training goes."""

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Training goes on after these epochs and so many images of the next."""

    def step(self, images: int, loss: Tensor) -> None:
        """A batch of so many images is done; reading `loss` on a GPU makes the CPU wait."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""


def epochs_of(recipe: Recipe, tenth: bool) -> int:
    """How many epochs a recipe takes on the full set or on the tenth."""
    return (recipe.epochs_on_tenth if tenth else None) or recipe.epochs


def train(
    recipe: Recipe,
    epochs: int,
    digits: Digits,
    validation: Digits,
    device: torch.device,
    seed: int,
    reporters: Sequence[Reporter] = (),
    checkpoint: Checkpoint | None = None,
    watch: Callable[[Network], None] | None = None,
    growth: dict[int, Tensor] | None = None,
) -> Network:
    """Train the recipe's network.

    Args:
        recipe: what to train, and how.
        epochs: how often to go over `digits`.
        digits: what to learn from.
        validation: judged after each epoch, never learned from.
        device: where to train.
        seed: decides the weights at the start, the order of the digits and their augmentation.
        reporters: told after each batch and after each epoch.
        checkpoint: gone on from, if it holds a state, and saved to after each epoch. On the CPU the weights are then
            bit for bit those of a training that was not cut off.
        watch: given the network that will be kept, before the first step; its weights follow the training, so that a
            reporter can judge them at any step.
        growth: gets the first convolution's weights, float32 [filters, 1, height, width], by the number of epochs
            after which they were such: 0, that is the random start, the last, and at most eight in between.

    Returns:
        The network on the CPU, in evaluation mode; with the averaged weights where the recipe averages.

    Raises:
        TrainingError: a batch is larger than the data, or the loss is not a number any more.
        KeyboardInterrupt: a signal asked to stop; where training stands is saved.
    """
    torch.manual_seed(seed)
    digits, validation = digits.to(device), validation.to(device)
    batch_size = recipe.batch_size if device.type == "cpu" else recipe.batch_size_on_gpu
    if batch_size > len(digits):
        raise TrainingError(f"A batch of {batch_size} is larger than the {len(digits)} digits: lower the batch size.")
    steps = math.ceil(len(digits) / batch_size) * epochs
    now = _Training(recipe, epochs, steps, digits, device, seed, {} if growth is None else growth)
    if checkpoint and checkpoint.state:
        now.restore(checkpoint.state)
        for reporter in reporters:
            reporter.resume(now.epochs, now.position)
    if watch:
        watch(now.averaged())
    with stop_on_signal() as stop:
        while len(now.epochs) < epochs:
            started = time.perf_counter()
            for chosen in now.batches(batch_size):
                loss = now.step(chosen)
                for reporter in reporters:
                    reporter.step(len(chosen), loss)
                if stop.is_set():
                    now.seconds += time.perf_counter() - started
                    if checkpoint:
                        checkpoint.save(now.state())
                    raise KeyboardInterrupt
            done = now.judge(validation, started)
            now.finish(done)
            if checkpoint:  # first: what was told but not saved would be told twice
                checkpoint.save(now.state())
            for reporter in reporters:
                reporter.epoch(done)
            if stop.is_set():  # it came while the epoch was judged, saved or reported
                raise KeyboardInterrupt
    return now.averaged().to("cpu").eval()


class _Training:
    """Where training stands: all that changes from step to step, and that a checkpoint must hold."""

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        steps: int,
        digits: Digits,
        device: torch.device,
        seed: int,
        growth: dict[int, Tensor],
    ) -> None:
        self._recipe, self._digits, self._device = recipe, digits, device
        self.network = build(recipe.network).to(device).to(memory_format=torch.channels_last)
        self._precision = choose_precision(device, recipe.mixed_precision)
        self._average: Network = copy.deepcopy(self.network) if recipe.averaging else self.network
        # Every step changes them in place, and so does a checkpoint: looked up once.
        self._averages, self._numbers = _numbers(self._average), _numbers(self.network)
        self.optimizer = make_optimizer(self.network.parameters(), recipe.learning_rate, recipe.weight_decay, device)
        self._schedule = make_schedule(recipe, self.optimizer, steps)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._learn_from = replayed(self._learn, device, self._generator)
        self.epochs: list[Epoch] = []
        self.steps = 0
        self.total = torch.zeros((), device=device)  # of the epoch's losses
        # Filters change most at first: with 40 epochs, those of 0, 1, 2, 3, 4, 6, 10, 16, 25 and 40 are kept.
        self._kept_epochs = {round(epochs ** (k / 8)) for k in range(9)}
        self._growth = growth
        self._keep_filters()
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch: `position` counts the digits that it has seen, in the random `order`."""
        self._order: Tensor | None = None
        self.position, self.seconds = 0, 0.0
        self.total.zero_()
        self.losses: list[tuple[int, Tensor]] = []

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """What is left of the epoch: the places of the digits of each batch, int64 [n]."""
        if self._order is None:
            self._order = torch.randperm(len(self._digits), generator=self._generator, device=self._device)
        left = self._order[self.position :]
        yield from left.split(batch_size) if len(left) else ()

    def _learn(self, chosen: Tensor) -> Tensor:
        """Follow the gradient of the loss over some digits, and answer with it; runs on the device alone."""
        images = self._digits.images[chosen].to(torch.float32)
        if self._recipe.augmentation != Augmentation():
            images = distort(images, self._recipe.augmentation, self._generator)
        pixels = normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._precision, self._precision != torch.float32, cache_enabled=False):
            logits = self.network(pixels)
        labels = self._digits.labels[chosen]
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self._recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach() * len(chosen)
        return loss.detach()

    def step(self, chosen: Tensor) -> Tensor:
        """Take one step of training, and count."""
        loss = self._learn_from(chosen)
        self.steps += 1
        self.position += len(chosen)
        if self._schedule:
            self._schedule.step()
        if self._average is not self.network:
            # Early averages would be of the random start: the window grows with the steps taken, up to the recipe's.
            keep = min(self._recipe.averaging, (1 + self.steps) / (10 + self.steps))
            get_ema_multi_avg_fn(keep)(self._averages, self._numbers, self.steps)
        if self.steps % LOSS_EVERY == 0:
            self.losses.append((self.steps, loss.clone()))
        return loss

    def judge(self, validation: Digits, started: float) -> Epoch:
        """What the epoch brought that began, or went on, at `started` by `time.perf_counter`.

        Raises:
            TrainingError: the loss is not a number any more.
        """
        train_loss = self.total.item() / len(self._digits)  # waits for the device: the clock may be read now
        seconds = self.seconds + time.perf_counter() - started
        if not math.isfinite(train_loss):
            raise TrainingError(
                f"The loss is not a number any more by step {self.steps} (epoch {len(self.epochs) + 1}): "
                "lower the learning rate."
            )
        judged = evaluate(self.averaged(), validation)
        return Epoch(
            number=len(self.epochs) + 1,
            step=self.steps,
            losses=[(at, value.item()) for at, value in self.losses],
            train_loss=train_loss,
            validation_loss=judged.loss(),
            validation_accuracy=judged.accuracy(),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            images_per_second=len(self._digits) / seconds,
            seconds=seconds,
        )

    def finish(self, epoch: Epoch) -> None:
        """End an epoch."""
        self.epochs.append(epoch)
        if epoch.number in self._kept_epochs:
            self._keep_filters()
        self._begin()

    def _keep_filters(self) -> None:
        """Keep the first layer's filters as they are now: for pictures alone."""
        if self._average.convolutions:
            weights = self._average.get_parameter("convolutions.0.weight").detach()
            self._growth[len(self.epochs)] = weights.to("cpu", copy=True)

    def averaged(self) -> Network:
        """The network that is judged and kept."""
        return self._average

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "average": self._average, "optimizer": self.optimizer}
        return parts | ({"schedule": self._schedule} if self._schedule else {})

    def state(self) -> dict[str, Any]:
        """All of it, as `Checkpoint` keeps it."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "random": torch.get_rng_state(),
            "random_on_gpu": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "generator": self._generator.get_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "order": self._order,
            "growth": self._growth,
            **{name: getattr(self, name) for name in ("steps", "position", "seconds", "total", "losses")},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        if state["random_on_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_on_gpu"], self._device)
        self._generator.set_state(state["generator"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self._order = state["order"]
        self.steps, self.position, self.seconds = state["steps"], state["position"], state["seconds"]
        self.total.copy_(state["total"])
        self.losses = state["losses"]
        self._growth.update(state["growth"])


def _numbers(network: Network) -> list[Tensor]:
    """Weights and statistics, without counters."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
