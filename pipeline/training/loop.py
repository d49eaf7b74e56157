"""The training loop: a run in, a trained network out.

The data set is one uint8 tensor on the device. A batch is indexed by a random permutation, augmented and normalised as
a whole, and never decoded image by image: the chapter's own loop spends most of its time on that.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline import PipelineError
from pipeline.data.dataset import Samples
from pipeline.evaluation import evaluate
from pipeline.networks import Network, build, normalise
from pipeline.recipes import Augmentation, VGGArchitecture
from pipeline.training.augmentation import distort
from pipeline.training.callback import Callback, Epoch
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.devices import make_optimizer, replayed
from pipeline.training.run import Run
from pipeline.training.schedule import make_schedule
from pipeline.training.signals import stop_on_signal

LOSS_EVERY = 50  # steps between two losses that are kept


class TrainingError(PipelineError):
    """Training cannot continue; the message is one sentence that names the step and the reason."""


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
        network: on the CPU, in evaluation mode; with the averaged weights if the recipe averages.
        epochs: the metrics of each epoch, including those before a run was interrupted.
        growth: the first convolution's weights, float32 [filters, 1, height, width], by the number of epochs after
            which they were taken: 0 (the random start), the last, and at most eight in between. Empty for a network
            without convolutions.
    """

    network: Network
    epochs: list[Epoch]
    growth: dict[int, Tensor]

    @property
    def seconds(self) -> float:
        """Training time without validation, including that before an interruption."""
        return sum(epoch.seconds for epoch in self.epochs)


def train(run: Run, callbacks: Sequence[Callback] = (), checkpoint: Checkpoint | None = None) -> Trained:
    """Train the run's network.

    Args:
        run: the recipe, the seed, the data and the device.
        callbacks: called before the first step, after each batch and after each epoch.
        checkpoint: training resumes from its state, if there is one, and saves to it after each epoch. On the CPU the
            weights then equal those of an uninterrupted training bit for bit.

    Raises:
        TrainingError: a batch is larger than the training split, or the loss is no longer finite.
        KeyboardInterrupt: a signal asked to stop; the state of training is saved.
    """
    validation = run.dataset.validation.to(run.device)
    training = _Training(run)
    for callback in callbacks:
        callback.start(training.averaged())
    if checkpoint and checkpoint.state:
        training.restore(checkpoint.state)
        for callback in callbacks:
            callback.resume(training.epochs, training.position)
    with stop_on_signal() as stop:
        while len(training.epochs) < run.epochs:
            started = time.perf_counter()
            for chosen in training.batches(run.batch_size):
                loss = training.step(chosen)
                for callback in callbacks:
                    callback.step(len(chosen), loss)
                if stop.is_set():
                    training.seconds += time.perf_counter() - started
                    if checkpoint:
                        checkpoint.save(training.state())
                    raise KeyboardInterrupt
            done = training.validate(validation, started)
            training.finish(done)
            if checkpoint:  # before the callbacks: an epoch that is reported but not saved would be reported twice
                checkpoint.save(training.state())
            for callback in callbacks:
                callback.epoch(done)
            if stop.is_set():  # the signal came during validation, saving or a callback
                raise KeyboardInterrupt
    return Trained(training.averaged().to("cpu").eval(), training.epochs, training.growth)


class _Training:
    """The state of training: everything that changes from step to step and that a checkpoint must hold."""

    def __init__(self, run: Run) -> None:
        recipe, device = run.recipe, run.device
        self._recipe, self._device, self._precision = recipe, device, run.precision
        self._samples = run.dataset.train.to(device)
        if run.batch_size > len(self._samples):
            raise TrainingError(
                f"A batch of {run.batch_size} is larger than the {len(self._samples)} training pictures: add pictures, "
                "or choose a recipe with smaller batches."
            )
        blocks = recipe.network.blocks if isinstance(recipe.network, VGGArchitecture) else ()
        side = min(run.dataset.task.height, run.dataset.task.width)
        if side >> len(blocks) == 1 and 1 in (run.batch_size, len(self._samples) % run.batch_size):
            raise TrainingError(
                f"Batches of {run.batch_size} leave one picture for the last batch of an epoch, and batch "
                "normalisation at 1x1 pixels needs two: change the batch size."
            )
        steps = math.ceil(len(self._samples) / run.batch_size) * run.epochs
        torch.manual_seed(run.seed)
        self.network = build(recipe.network, run.dataset.task).to(device).to(memory_format=torch.channels_last)
        self._average: Network = copy.deepcopy(self.network) if recipe.averaging else self.network
        # Steps and checkpoints change these tensors in place, so one look-up is enough.
        self._averages, self._numbers = _numbers(self._average), _numbers(self.network)
        self.optimizer = make_optimizer(self.network.parameters(), recipe.learning_rate, recipe.weight_decay, device)
        self._schedule = make_schedule(recipe, self.optimizer, steps)
        self._generator = torch.Generator(device).manual_seed(run.seed)
        self._learn_from = replayed(self._learn, device, self._generator)
        self.epochs: list[Epoch] = []
        self.steps = 0
        self.total = torch.zeros((), device=device)  # sum of the epoch's losses
        # Filters change most at first: with 40 epochs, those of 0, 1, 2, 3, 4, 6, 10, 16, 25 and 40 are kept.
        self._kept_epochs = {round(run.epochs ** (k / 8)) for k in range(9)}
        self.growth: dict[int, Tensor] = {}
        self._keep_filters()
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch: `position` counts the samples seen so far, in the random `order`."""
        self._order: Tensor | None = None
        self.position, self.seconds = 0, 0.0
        self.total.zero_()
        self.losses: list[tuple[int, Tensor]] = []

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the rest of the epoch as indices of each batch's samples, int64 [n]."""
        if self._order is None:
            self._order = torch.randperm(len(self._samples), generator=self._generator, device=self._device)
        left = self._order[self.position :]
        yield from left.split(batch_size) if len(left) else ()

    def _learn(self, chosen: Tensor) -> Tensor:
        """Take one optimizer step on the chosen samples and return their loss; never waits for the device."""
        images = self._samples.images[chosen].to(torch.float32)
        if self._recipe.augmentation != Augmentation():
            images = distort(images, self._recipe.augmentation, self._generator, self.network.task.padding)
        pixels = normalise(images, self.network.task).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._precision, self._precision != torch.float32, cache_enabled=False):
            logits = self.network(pixels)
        labels = self._samples.labels[chosen]
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self._recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach() * len(chosen)
        return loss.detach()

    def step(self, chosen: Tensor) -> Tensor:
        """Take one training step and count it."""
        loss = self._learn_from(chosen)
        self.steps += 1
        self.position += len(chosen)
        if self._schedule:
            self._schedule.step()
        if self._average is not self.network:
            # A full window would average in the random start: it grows with the steps taken, up to the recipe's.
            keep = min(self._recipe.averaging, (1 + self.steps) / (10 + self.steps))
            get_ema_multi_avg_fn(keep)(self._averages, self._numbers, self.steps)
        if self.steps % LOSS_EVERY == 0:
            self.losses.append((self.steps, loss.clone()))
            if self._device.type == "cpu":  # a GPU would have to be waited for
                self._require_finite(loss.item())
        return loss

    def validate(self, validation: Samples, started: float) -> Epoch:
        """Compute the metrics of the epoch that started, or resumed, at `started` (`time.perf_counter`).

        Raises:
            TrainingError: the loss is no longer finite.
        """
        train_loss = self.total.item() / len(self._samples)  # waits for the device, so that the time below is true
        seconds = self.seconds + time.perf_counter() - started
        self._require_finite(train_loss)
        evaluation = evaluate(self.averaged(), validation)
        self._require_finite(evaluation.loss())
        return Epoch(
            number=len(self.epochs) + 1,
            step=self.steps,
            losses=[(at, value.item()) for at, value in self.losses],
            train_loss=train_loss,
            validation_loss=evaluation.loss(),
            validation_accuracy=evaluation.accuracy(),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            images_per_second=len(self._samples) / seconds,
            seconds=seconds,
        )

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is no longer finite at step {self.steps} (epoch {len(self.epochs) + 1}): "
                "lower the learning rate."
            )

    def finish(self, epoch: Epoch) -> None:
        """End an epoch."""
        self.epochs.append(epoch)
        if epoch.number in self._kept_epochs:
            self._keep_filters()
        self._begin()

    def _keep_filters(self) -> None:
        """Keep a copy of the first layer's filters, for the report."""
        if self._average.convolutions:
            weights = self._average.get_parameter("convolutions.0.weight").detach()
            self.growth[len(self.epochs)] = weights.to("cpu", copy=True)

    def averaged(self) -> Network:
        """The network that is validated and kept."""
        return self._average

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "average": self._average, "optimizer": self.optimizer}
        return parts | ({"schedule": self._schedule} if self._schedule else {})

    def state(self) -> dict[str, Any]:
        """The whole state, as `Checkpoint` saves it."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "random": torch.get_rng_state(),
            "random_on_gpu": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "generator": self._generator.get_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "order": self._order,
            "growth": self.growth,
            **{name: getattr(self, name) for name in ("steps", "position", "seconds", "total", "losses")},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state()` returned."""
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
        self.growth.update(state["growth"])


def _numbers(network: Network) -> list[Tensor]:
    """Weights and statistics of batch normalisation, without its counters."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
