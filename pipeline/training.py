"""The training loop: digits and a recipe in, a trained network and its history out.

The data set is one uint8 tensor on the device. A batch is cut out of it by a random permutation, bent and normalised
as a whole, and never decoded picture by picture.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import PipelineError
from pipeline.augmentation import distort
from pipeline.checkpoint import Checkpoint
from pipeline.data import Digits
from pipeline.evaluation import evaluate
from pipeline.networks import Network, build, normalise
from pipeline.recipes import Augmentation, Recipe

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


def choose_device(wish: str) -> torch.device:
    """The device to train on: `cuda`, `mps` or `cpu`, or for `auto` the first of them that is there.

    Raises:
        TrainingError: the wished device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[wish]:
        available = ", ".join(name for name, available in there.items() if available)
        raise TrainingError(f"There is no {wish} device here: set PIPELINE_DEVICE to auto or one of: {available}.")
    return torch.device(wish)


def describe_device(device: torch.device) -> str:
    """The device in words, for logs and tags."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


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
    now = _Training(recipe, math.ceil(len(digits) / batch_size) * epochs, device, seed)
    if checkpoint and checkpoint.state:
        now.restore(checkpoint.state)
        for reporter in reporters:
            reporter.resume(now.epochs, now.position)
    network = now.network
    with _stop_on_signal() as stop:
        while len(now.epochs) < epochs:
            started = time.perf_counter()
            network.train()
            for images, labels in now.batches(digits, batch_size):
                loss = functional.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
                now.optimizer.zero_grad()
                loss.backward()
                now.step(loss.detach(), len(labels))
                for reporter in reporters:
                    reporter.step(len(labels), loss.detach())
                if stop.is_set():
                    now.seconds += time.perf_counter() - started
                    if checkpoint:
                        checkpoint.save(now.state())
                    raise KeyboardInterrupt
            train_loss = now.total.item() / len(digits)  # waits for the device: the clock may be read now
            seconds = now.seconds + time.perf_counter() - started
            if not math.isfinite(train_loss):
                raise TrainingError(
                    f"The loss is not a number any more by step {now.steps} (epoch {len(now.epochs) + 1}): "
                    "lower the learning rate."
                )
            judged = evaluate(now.averaged(), validation)
            done = Epoch(
                number=len(now.epochs) + 1,
                step=now.steps,
                losses=[(at, value.item()) for at, value in now.losses],
                train_loss=train_loss,
                validation_loss=judged.loss(),
                validation_accuracy=judged.accuracy(),
                learning_rate=now.optimizer.param_groups[0]["lr"],
                images_per_second=len(digits) / seconds,
                seconds=seconds,
            )
            now.finish(done)
            if checkpoint:  # first: what was told but not saved would be told twice
                checkpoint.save(now.state())
            for reporter in reporters:
                reporter.epoch(done)
    return now.averaged().to("cpu").eval()


class _Training:
    """Where training stands: all that changes from step to step, and that a checkpoint must hold."""

    def __init__(self, recipe: Recipe, steps: int, device: torch.device, seed: int) -> None:
        self._recipe, self._device = recipe, device
        self.network = build(recipe.network).to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(  # without decay it is Adam (Kingma & Ba, 2015)
            self.network.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self._schedule = (
            OneCycleLR(self.optimizer, recipe.learning_rate, total_steps=steps) if recipe.one_cycle else None
        )
        self._average = (
            AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)
            if recipe.averaging
            else None
        )
        self._generator = torch.Generator(device).manual_seed(seed)
        self.epochs: list[Epoch] = []
        self.steps = 0
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch: `position` counts the digits that it has seen, in the random `order`."""
        self._order: Tensor | None = None
        self.position, self.seconds = 0, 0.0
        self.total = torch.zeros((), device=self._device)
        self.losses: list[tuple[int, Tensor]] = []

    def batches(self, digits: Digits, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of the epoch: float32 [n, 1, 28, 28], normalised, and int64 [n]."""
        if self._order is None:
            self._order = torch.randperm(len(digits), generator=self._generator, device=self._device)
        left = self._order[self.position :]
        for chosen in left.split(batch_size) if len(left) else ():
            images = digits.images[chosen].to(torch.float32)
            if self._recipe.augmentation != Augmentation():
                images = distort(images, self._recipe.augmentation, self._generator)
            yield normalise(images).contiguous(memory_format=torch.channels_last), digits.labels[chosen]

    def step(self, loss: Tensor, images: int) -> None:
        """Follow the gradients that were computed, and count."""
        self.optimizer.step()
        if self._schedule:
            self._schedule.step()
        if self._average:
            self._average.update_parameters(self.network)
        self.steps += 1
        self.position += images
        self.total += loss * images
        if self.steps % LOSS_EVERY == 0:
            self.losses.append((self.steps, loss))

    def finish(self, epoch: Epoch) -> None:
        """End an epoch."""
        self.epochs.append(epoch)
        self._begin()

    def averaged(self) -> Network:
        """The network that is judged and kept."""
        if self._average is None:
            return self.network
        assert isinstance(self._average.module, Network)
        return self._average.module

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer}
        return parts | {"schedule": self._schedule, "average": self._average}

    def state(self) -> dict[str, Any]:
        """All of it, as `Checkpoint` keeps it."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items() if part},
            "random": torch.get_rng_state(),
            "random_on_gpu": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "generator": self._generator.get_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "order": self._order,
            **{name: getattr(self, name) for name in ("steps", "position", "seconds", "total", "losses")},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name, part in self._parts().items():
            if part:
                part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        if state["random_on_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_on_gpu"], self._device)
        self._generator.set_state(state["generator"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self._order = state["order"]
        self.steps, self.position, self.seconds = state["steps"], state["position"], state["seconds"]
        self.total, self.losses = state["total"], state["losses"]


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """While training, Ctrl-C and `docker stop` (SIGTERM) take effect between two steps, where a state can be saved."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
