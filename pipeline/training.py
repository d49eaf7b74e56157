"""The training loop: digits and a recipe in, a trained network and its history out.

The data set is one uint8 tensor on the device. A batch is cut out of it by a random permutation, bent and normalised
as a whole, and never decoded picture by picture.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import PipelineError
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
    return recipe.epochs_on_tenth if tenth else recipe.epochs


def train(
    recipe: Recipe,
    epochs: int,
    digits: Digits,
    validation: Digits,
    device: torch.device,
    seed: int,
    reporters: Sequence[Reporter] = (),
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

    Returns:
        The network on the CPU, in evaluation mode; with the averaged weights where the recipe averages.

    Raises:
        TrainingError: a batch is larger than the data, or the loss is not a number any more.
    """
    torch.manual_seed(seed)
    digits, validation = digits.to(device), validation.to(device)
    network = build(recipe.network).to(device).to(memory_format=torch.channels_last)
    batch_size = recipe.batch_size if device.type == "cpu" else recipe.batch_size_on_gpu
    if batch_size > len(digits):
        raise TrainingError(f"A batch of {batch_size} is larger than the {len(digits)} digits: lower the batch size.")
    steps = math.ceil(len(digits) / batch_size)
    optimizer, schedule = _optimization(recipe, network, steps * epochs, device)
    average = _average(recipe, network)
    order = torch.Generator(device).manual_seed(seed)
    step = 0
    for number in range(1, epochs + 1):
        started = time.perf_counter()
        network.train()
        losses: list[tuple[int, Tensor]] = []
        total = torch.zeros((), device=device)
        for images, labels in _batches(digits, batch_size, recipe.augmentation, order):
            loss = functional.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            if average:
                average.update_parameters(network)
            step += 1
            total += loss.detach() * len(labels)
            if step % LOSS_EVERY == 0:
                losses.append((step, loss.detach()))
            for reporter in reporters:
                reporter.step(len(labels), loss.detach())
        train_loss = total.item() / len(digits)  # waits for the device: the clock may be read now
        seconds = time.perf_counter() - started
        if not math.isfinite(train_loss):
            raise TrainingError(
                f"The loss is not a number any more by step {step} (epoch {number}): lower the learning rate."
            )
        judged = evaluate(_averaged(average, network), validation)
        done = Epoch(
            number=number,
            step=step,
            losses=[(at, value.item()) for at, value in losses],
            train_loss=train_loss,
            validation_loss=judged.loss(),
            validation_accuracy=judged.accuracy(),
            learning_rate=optimizer.param_groups[0]["lr"],
            images_per_second=len(digits) / seconds,
            seconds=seconds,
        )
        for reporter in reporters:
            reporter.epoch(done)
    return _averaged(average, network).to("cpu").eval()


def distort(images: Tensor, bounds: Augmentation, generator: torch.Generator) -> Tensor:
    """Bend each picture by its own random affine map, all of them in one pass (spatial transformer sampling).

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), section 3.2 and 3.3.

    Args:
        images: float32 [n, 28, 28], 0 for background.
        bounds: how far.
        generator: of the same device; four random numbers a picture and two for its shift are drawn.

    Returns:
        float32 [n, 28, 28].
    """
    n = len(images)
    angle, stretch, slant, across, down = (
        torch.rand((5, n), generator=generator, device=images.device).mul_(2).sub_(1).unbind()
    )
    angle, slant = angle * math.radians(bounds.rotation), torch.tan(slant * math.radians(bounds.shear))
    zoom = 1 / (1 + stretch * bounds.scale)  # the map leads from where a pixel goes to where it comes from
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    unit = 2 / images.shape[-1]  # a pixel, on the grid's scale from -1 to 1
    rows = torch.stack(
        [
            torch.stack([cos, cos * slant - sin, across * bounds.shift * unit], dim=1),
            torch.stack([sin, sin * slant + cos, down * bounds.shift * unit], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, [n, 1, 28, 28], align_corners=False)
    return functional.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _batches(
    digits: Digits, batch_size: int, augmentation: Augmentation, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(digits), generator=generator, device=digits.labels.device)
    for chosen in order.split(batch_size):
        images = digits.images[chosen].to(torch.float32)
        if augmentation != Augmentation():
            images = distort(images, augmentation, generator)
        yield normalise(images).contiguous(memory_format=torch.channels_last), digits.labels[chosen]


def _optimization(
    recipe: Recipe, network: Network, steps: int, device: torch.device
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    # Without decay AdamW is Adam (Kingma & Ba, 2015).
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    if not recipe.one_cycle:
        return optimizer, None
    return optimizer, OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)


def _average(recipe: Recipe, network: Network) -> AveragedModel | None:
    if not recipe.averaging:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)


def _averaged(average: AveragedModel | None, network: Network) -> Network:
    if average is None:
        return network
    assert isinstance(average.module, Network)
    return average.module
