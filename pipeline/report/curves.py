"""The picture of the training curves."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.report.style import BLUE, ORANGE, panels
from pipeline.training.callback import Epoch


def draw_training_curves(epochs: Sequence[Epoch], learning_rates: Sequence[float]) -> Figure:
    """Draw loss, validation error and learning rate over the epochs.

    Args:
        epochs: all epochs of the training.
        learning_rates: of each step of the training.
    """
    last = epochs[-1]
    figure, (left, middle, right) = panels(
        4.6,
        1,
        3,
        f"Training: {last.validation_accuracy:.2%} validation accuracy after "
        + ("1 epoch" if last.number == 1 else f"{last.number} epochs"),
        "The training loss includes augmentation and label smoothing; it can exceed the validation loss.",
    )
    numbers = [epoch.number for epoch in epochs]
    left.plot(numbers, [epoch.train_loss for epoch in epochs], color=BLUE, marker="o", label="training")
    left.plot(numbers, [epoch.validation_loss for epoch in epochs], color=ORANGE, marker="s", label="validation")
    left.set(title="Loss (cross-entropy, nats)", ylim=(0, None))
    left.legend(frameon=False)
    error = [max(1 - epoch.validation_accuracy, 1e-4) for epoch in epochs]
    middle.plot(numbers, [100 * share for share in error], color=ORANGE, marker="s")
    middle.set(title="Validation error (%)", yscale="log")
    middle.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    # Several decades have room for the labels of the powers of ten alone.
    minor = mpl.ticker.FormatStrFormatter("%g") if max(error) < 20 * min(error) else mpl.ticker.NullFormatter()
    middle.yaxis.set_minor_formatter(minor)
    passed = [last.number * (step + 1) / len(learning_rates) for step in range(len(learning_rates))]
    right.plot(passed, learning_rates, color=BLUE)
    right.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    right.set(title="Learning rate", ylim=(0, None), xlim=(0, None))
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    return figure
