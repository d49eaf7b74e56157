"""Pictures of how a network answers and learns, for docs/how-it-works.md, computed by torch.

The digits are those of the bundled tenth, and random numbers come from fixed seeds: every machine draws the same.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data import mnist
from pipeline.data.dataset import MNIST, DataSet
from pipeline.networks import MNISTConvNet, count_parameters, normalise
from pipeline.report.style import BLUE, COLOURS, GREY, ORANGE, panels

LOGITS = torch.tensor([2.0, 1.0, 0.1])
TEMPERATURES = (0.5, 1.0, 2.0)
MEASURED = 128  # digits that the loss is measured on
STEPS_BEFORE = 6  # of training, before one weight is moved: its valley is then easy to see
WEIGHT = (5, 49)  # of the last layer: from the hidden unit 49 to the logit of the digit 5
START, DESCENT_STEPS = -1.5, 8
RATES = {"too low": 0.5, "good": 4.0, "too high": 10.5}


@functools.cache
def bundled_digits() -> DataSet:
    """The bundled tenth of MNIST."""
    return mnist.load("tenth", None, Path("unused"))


def count_layers() -> dict[str, tuple[int, int]]:
    """Weights and multiplications per picture of each layer of the network of `default`."""
    network = MNISTConvNet(MNIST).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 28, 28))
    named = {
        "first convolution": "convolutions.0",
        "second convolution": "convolutions.1",
        "first linear layer": "hidden",
        "second linear layer": "output",
    }
    counts = {of.partition(".")[2]: sum(flops.values()) // 2 for of, flops in counter.get_flop_counts().items()}
    return {shown: (count_parameters(network.get_submodule(module)), counts[module]) for shown, module in named.items()}


def draw_layers() -> Figure:
    """Weights and multiplications of each layer, as bars with their numbers."""
    layers = count_layers()
    figure, plots = panels(
        5.0, 2, 1,
        "Most weights are in the first linear layer, most of the work is in the second convolution",
        "A convolution uses each of its few weights again at every place of the picture.",
    )  # fmt: skip
    for axes, of, title in zip(plots, (0, 1), ("weights", "multiplications for one picture"), strict=True):
        counts = [count[of] for count in layers.values()]
        bars = axes.barh(list(layers), counts, color=(BLUE, ORANGE)[of])
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=6)
        axes.invert_yaxis()
        axes.set_title(title)
        axes.set_xlim(0, 1.2 * max(counts))
        axes.set_xticks([])
        axes.tick_params(left=False)
        axes.spines[["bottom"]].set_visible(False)
    return figure


def draw_softmax() -> Figure:
    """The probabilities of the same three logits at three temperatures."""
    figure, plots = panels(
        3.6, 1, 3,
        "A higher temperature makes softmax less sure; the order stays the same",
        f"The same three logits each time: {', '.join(f'{logit:g}' for logit in LOGITS.tolist())}.",
    )  # fmt: skip
    for axes, temperature in zip(plots, TEMPERATURES, strict=True):
        shares = torch.softmax(LOGITS / temperature, dim=0).tolist()
        bars = axes.bar([f"logit {logit:g}" for logit in LOGITS.tolist()], shares, color=[BLUE, ORANGE, GREY])
        axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3)
        axes.set_title(f"temperature {temperature:g}")
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1] if axes is plots[0] else [])
    plots[0].set_ylabel("probability")
    return figure


def draw_cross_entropy() -> Figure:
    """The loss against the probability of the right answer, with the three probabilities of the softmax example."""
    figure, (axes,) = panels(
        4.6, 1, 1,
        "Cross-entropy: the less probability the right answer got, the larger the loss",
        "The dots are the example on this page, if the first, second or third answer is the right one.",
    )  # fmt: skip
    probabilities = torch.linspace(0.01, 1, 200)
    axes.plot(probabilities, -probabilities.log(), color=GREY)
    for place, (share, name) in enumerate(zip(torch.softmax(LOGITS, 0), ("first", "second", "third"), strict=True)):
        loss = functional.cross_entropy(LOGITS, torch.tensor(place))
        axes.plot(share, loss, "o", markersize=11, color=COLOURS[place])
        note = f"{name} is right: probability {share:.2f}, loss {loss:.2f}"
        axes.annotate(note, (float(share), float(loss)), (14, 6), textcoords="offset points", color=COLOURS[place])
    axes.set_xlabel("probability that the network gave to the right answer")
    axes.set_ylabel("loss")
    axes.set_xlim(0, 1.0)
    axes.set_ylim(0, 4.7)
    return figure


def one_weight() -> tuple[Callable[[Tensor], Tensor], float]:
    """The loss on 128 digits as a function of one weight of the chapter's network, and the weight's value.

    The network was trained for `STEPS_BEFORE` steps; all its other weights stay as they are. Both the argument and the
    loss are scalars in float64, so that slopes can be taken by autograd and by differences alike.
    """
    digits = bundled_digits().train
    torch.manual_seed(1)
    network = MNISTConvNet(MNIST)
    images, labels = normalise(digits.images[:MEASURED], MNIST), digits.labels[:MEASURED]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for start in range(MEASURED, MEASURED + 64 * STEPS_BEFORE, 64):
        chosen = slice(start, start + 64)
        loss = functional.cross_entropy(network(normalise(digits.images[chosen], MNIST)), digits.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reached: list[Tensor] = []
    network.output.register_forward_pre_hook(lambda _, given: reached.append(given[0].detach().double()))
    network(images)
    weights, bias = network.output.weight.detach().double(), network.output.bias.detach().double()
    kept = torch.ones_like(weights).index_put(tuple(map(torch.tensor, WEIGHT)), torch.tensor(0.0, dtype=torch.float64))

    def loss_of(weight: Tensor) -> Tensor:
        return functional.cross_entropy(reached[0] @ (weights * kept + weight * (1 - kept)).T + bias, labels)

    return loss_of, weights[WEIGHT].item()


def slope(loss_of: Callable[[Tensor], Tensor], weight: float) -> tuple[float, float]:
    """The loss at a weight and its gradient there, by backpropagation."""
    at = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    loss = loss_of(at)
    (gradient,) = torch.autograd.grad(loss, at)
    return loss.item(), gradient.item()


def descend(loss_of: Callable[[Tensor], Tensor], weight: float, rate: float, steps: int) -> list[float]:
    """The values that a weight takes in gradient descent, the first included."""
    values = [weight]
    for _ in range(steps):
        values.append(values[-1] - rate * slope(loss_of, values[-1])[1])
    return values


def draw_gradient() -> Figure:
    """The loss against one weight, with the slope at the weight's value."""
    loss_of, now = one_weight()
    loss, gradient = slope(loss_of, now)
    figure, (axes,) = panels(
        4.8, 1, 1,
        "The gradient is the slope of the loss: it shows which way is down",
        f"One of 421,642 weights was moved, all others were held; the loss was measured on {MEASURED} digits.",
    )  # fmt: skip
    lowest = _draw_valley(axes, loss_of)
    step = 0.6
    axes.plot([now - step, now + step], [loss - step * gradient, loss + step * gradient], color=ORANGE, linewidth=2.5)
    axes.plot(now, loss, "o", color=ORANGE, markersize=11)
    sign = "\N{MINUS SIGN}" if gradient < 0 else ""
    axes.annotate(
        f"the weight now; slope {sign}{abs(gradient):.2f}:\na larger weight lowers the loss", (now, loss), (-60, 60),
        textcoords="offset points", color=ORANGE,
    )  # fmt: skip
    axes.plot(*lowest, "o", color=BLUE, markersize=11)
    axes.annotate("best value of this weight", lowest, (18, -20), textcoords="offset points", color=BLUE)
    axes.set_xlabel("value of the weight")
    axes.set_ylabel("loss")
    axes.set_ylim(lowest[1] - 0.09, None)
    return figure


def draw_descent() -> Figure:
    """Gradient descent of the same weight with three learning rates."""
    loss_of, _ = one_weight()
    figure, plots = panels(
        4.2, 1, 3,
        "Gradient descent: step down the slope, again and again; the learning rate sets the stride",
        f"The same weight, from {str(START).replace('-', chr(0x2212))}, in {DESCENT_STEPS} steps.",
    )  # fmt: skip
    for axes, (name, rate), colour in zip(plots, RATES.items(), (BLUE, COLOURS[2], ORANGE), strict=True):
        _draw_valley(axes, loss_of)
        values = descend(loss_of, START, rate, DESCENT_STEPS)
        losses = [slope(loss_of, value)[0] for value in values]
        axes.plot(values, losses, "o-", color=colour, linewidth=1.2, markersize=8)
        axes.set_title(f"{name}: {rate:g}", color=colour)
        axes.set_xlabel("weight")
        axes.set_yticks([])
    plots[0].set_ylabel("loss")
    plots[1].sharey(plots[0])
    plots[2].sharey(plots[0])
    return figure


def _draw_valley(axes: Axes, loss_of: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The loss for weights from -2 to 2; returns the lowest point."""
    weights = torch.linspace(-2, 2, 161, dtype=torch.float64)
    losses = torch.stack([loss_of(weight) for weight in weights])
    axes.plot(weights, losses, color=GREY, linewidth=2)
    lowest = int(losses.argmin())
    return weights[lowest].item(), losses[lowest].item()
