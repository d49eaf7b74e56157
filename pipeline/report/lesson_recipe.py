"""Pictures of what a good recipe adds to training, for docs/how-it-works.md, drawn by the code that trains.

The digits are those of the bundled tenth, and random numbers come from fixed seeds: every machine draws the same.
"""

from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.data.dataset import MNIST
from pipeline.evaluation import evaluate
from pipeline.networks import DenseNet, normalise
from pipeline.recipes import RECIPES, Augmentation
from pipeline.report.lesson_basics import bundled_digits
from pipeline.report.style import BLUE, GREY, ORANGE, canvas, panels, tile
from pipeline.training.augmentation import distort
from pipeline.training.schedule import learning_rates

DEFAULT = RECIPES["default"]
DIGITS = 55_000  # of the full MNIST that training learns from
# The dense network trains in a second; a shorter memory than the recipe's shows the effect within these steps.
AVERAGED_STEPS, AVERAGED_BATCH, AVERAGED_RATE, DECAY = 172, 128, 8e-3, 0.9


def draw_augmentation() -> Figure:
    """One digit changed by the code that trains: each kind of change alone, and all of them as `default` has them."""
    bounds = DEFAULT.augmentation
    kinds = {
        f"rotation, up to {bounds.rotation:g}°": Augmentation(rotation=bounds.rotation),
        f"scale, up to {bounds.scale:.0%}": Augmentation(scale=bounds.scale),
        f"shear, up to {bounds.shear:g}°": Augmentation(shear=bounds.shear),
        f"shift, up to {bounds.shift:g} pixel": Augmentation(shift=bounds.shift),
        "all four together": bounds,
    }
    digit = bundled_digits().train.images[bundled_digits().train.labels == 4][:1].float()
    figure, axes = canvas(
        1.2 * len(kinds) + 0.4,
        "Augmentation: one digit of the training set, as the network may meet it",
        "The recipe draws every change at random within its bound, for each digit in each epoch.",
    )
    axes.text(3.5, 0.2, "original", ha="center", va="center", color=GREY)
    axes.text(7.1, 0.2, "five random draws", ha="center", va="center", color=GREY)
    for row, (name, only) in enumerate(kinds.items()):
        top = 0.4 + 1.2 * row
        axes.text(0.1, top + 0.55, name, va="center")
        changed = distort(digit.repeat(5, 1, 1), only, torch.Generator().manual_seed(3))
        for column, picture in enumerate([digit[0], *changed]):
            tile(axes, picture.numpy(), 2.95 + 1.15 * column + 0.15 * (column > 0), top, 1.1, cmap="gray")
    return figure


def draw_label_smoothing() -> Figure:
    """The targets with and without label smoothing, and the loss against the probability of the right answer."""
    smoothing, right = DEFAULT.label_smoothing, 4
    figure, (targets, losses) = panels(
        4.2, 1, 2,
        f"Label smoothing takes {smoothing:.0%} of the target and spreads it over all ten digits",
        "The smallest loss is then at a probability below 1: too much confidence costs.",
    )  # fmt: skip
    hard = functional.one_hot(torch.tensor(right), 10).float()
    soft = hard * (1 - smoothing) + smoothing / 10
    places = np.arange(10)
    targets.bar(places - 0.2, hard.numpy(), 0.4, color=BLUE, label="without")
    targets.bar(places + 0.2, soft.numpy(), 0.4, color=ORANGE, label="smoothed")
    targets.annotate(f"{soft[right]:.3f}", (right + 0.5, float(soft[right]) - 0.06), color=ORANGE)
    targets.annotate(f"{soft[-1]:.3f} each", (6.6, 0.06), color=ORANGE)
    targets.set_xticks(places)
    targets.set_title("target, if the digit is a 4")
    targets.legend(loc="upper right", frameon=False)
    probability = torch.linspace(0.6, 0.9995, 400)
    for smooth, colour in ((0.0, BLUE), (smoothing, ORANGE)):
        loss = smoothed_loss(probability, smooth)
        losses.plot(probability, loss, color=colour, linewidth=2.5)
        lowest = int(loss.argmin())
        losses.plot(probability[lowest], loss[lowest], "o", color=colour, markersize=11, clip_on=False)
    losses.annotate(
        f"lowest at {soft[right]:.3f}", (0.955, float(smoothed_loss(soft[right : right + 1], smoothing))), (-40, 34),
        textcoords="offset points", color=ORANGE, ha="center",
    )  # fmt: skip
    losses.set_title("loss")
    losses.set_ylim(0, None)
    losses.set_xlabel("probability of the right answer")
    return figure


def smoothed_loss(probability: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing, if the nine wrong answers share equally what the right one leaves.

    Args:
        probability: of the right answer, float32 [n], between 0 and 1.
        smoothing: as a recipe has it.

    Returns:
        float32 [n].
    """
    shares = ((1 - probability) / 9).unsqueeze(1).repeat(1, 10)
    shares[:, 4] = probability
    return functional.cross_entropy(
        shares.log(), torch.full((len(shares),), 4), label_smoothing=smoothing, reduction="none"
    )


def draw_learning_rate() -> Figure:
    """The learning rate of every step of `default` and of `chapter`, as training takes them."""
    steps = -(-DIGITS // DEFAULT.batch_size) * DEFAULT.epochs
    figure, (axes,) = panels(
        4.4, 1, 1,
        "One cycle: start low, climb to the peak, then fall towards zero",
        f"Every step of `default` on the full MNIST: {steps:,} steps in {DEFAULT.epochs} epochs.",
    )  # fmt: skip
    epochs = np.arange(steps) / steps * DEFAULT.epochs
    rates = learning_rates(DEFAULT, steps)
    peak = int(np.argmax(rates))
    axes.plot(epochs, rates, color=BLUE, linewidth=2.5)
    axes.plot(epochs, learning_rates(RECIPES["chapter"], steps), "--", color=GREY)
    axes.annotate("constant, as in `chapter`", (DEFAULT.epochs, 1e-3), (0, 8), textcoords="offset points",
                  ha="right", color=GREY)  # fmt: skip
    axes.plot(epochs[peak], rates[peak], "o", color=BLUE, markersize=11)
    axes.annotate(f"peak {rates[peak]:.3f}, after {DEFAULT.warm_up:.0%} of the steps", (epochs[peak], rates[peak]),
                  (16, 8), textcoords="offset points", color=BLUE)  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_ylim(0, None)
    return figure


def average_weights() -> Iterator[tuple[float, float, float, float]]:
    """Train the dense network on the tenth; after each step: one weight, its average, and both networks' losses.

    The losses are over the validation digits; the average is an exponential moving average with `DECAY`.
    """
    tenth = bundled_digits()
    torch.manual_seed(1)
    network = DenseNet(MNIST)
    average = DenseNet(MNIST)
    average.load_state_dict(network.state_dict())
    move_average = get_ema_multi_avg_fn(DECAY)
    optimizer = torch.optim.Adam(network.parameters(), AVERAGED_RATE)
    steps = 0
    while steps < AVERAGED_STEPS:
        for chosen in torch.randperm(len(tenth.train)).split(AVERAGED_BATCH)[: AVERAGED_STEPS - steps]:
            logits = network(normalise(tenth.train.images[chosen], MNIST))
            loss = functional.cross_entropy(logits, tenth.train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            move_average(list(average.parameters()), list(network.parameters()), steps)
            steps += 1
            weights = [of.output.weight[0, 0].item() for of in (network, average)]
            losses = [evaluate(of, tenth.validation).loss() for of in (network, average)]
            yield weights[0], weights[1], losses[0], losses[1]


def draw_averaging() -> Figure:
    """One weight and the validation loss, step by step, with and without averaging."""
    figure, plots = panels(
        5.6, 2, 1,
        "Weight averaging: the mean of the last steps is calmer than the last step",
        f"The dense network on the bundled tenth; a step moves the average {1 - DECAY:.0%} of the way.",
    )  # fmt: skip
    weights, averages, losses, losses_of_average = zip(*average_weights(), strict=True)
    for axes, jumpy, calm, title in zip(
        plots, (weights, losses), (averages, losses_of_average), ("one weight", "loss on the validation digits"),
        strict=True,
    ):  # fmt: skip
        axes.plot(range(1, AVERAGED_STEPS + 1), jumpy, color=BLUE, linewidth=1, label="the weights themselves")
        axes.plot(range(1, AVERAGED_STEPS + 1), calm, color=ORANGE, linewidth=3, label="their average")
        axes.set_title(title)
    plots[0].legend(frameon=False)
    plots[1].set_ylim(0.1, 0.5)
    plots[1].set_xlabel("step of training")
    return figure
