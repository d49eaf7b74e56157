import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.lines import Line2D

from pipeline.report.curves import draw_training_curves
from pipeline.report.style import render
from pipeline.training.callback import Epoch

EPOCHS = [Epoch(n, 10 * n, [], 1 / n, 0.9 / n, 1 - 0.1 / n, 1e-3, 1000.0, 1.0) for n in (1, 2, 3)]


def assert_line(line: Line2D, across: Sequence[float], up: Sequence[float]) -> None:
    np.testing.assert_allclose(np.asarray(line.get_xdata(), float), np.asarray(across, float))
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), np.asarray(up, float))


def test_losses_errors_and_learning_rates_are_drawn_over_the_epochs() -> None:
    rates = [step / 30 for step in range(30)]
    figure = draw_training_curves(EPOCHS, rates)
    loss, error, rate = figure.axes
    assert "96.67% validation accuracy after 3 epochs" in figure.texts[0].get_text()
    numbers = [1, 2, 3]
    assert_line(loss.lines[0], numbers, [1, 1 / 2, 1 / 3])
    assert_line(loss.lines[1], numbers, [0.9, 0.45, 0.3])
    assert_line(error.lines[0], numbers, [10, 5, 10 / 3])
    assert_line(rate.lines[0], [3 * (step + 1) / 30 for step in range(30)], rates)
    assert render(figure)


def test_one_epoch_without_an_error_can_be_drawn() -> None:
    figure = draw_training_curves([Epoch(1, 10, [], 0.1, 0.1, 1.0, 1e-3, 1000.0, 1.0)], [1e-3] * 10)
    assert "after 1 epoch" in figure.texts[0].get_text()
    assert render(figure)


@pytest.mark.parametrize("accuracies", [(0.9, 1.0, 1.0), (0.94, 0.95, 0.96), (0.1, 0.9, 0.999)])
def test_labels_of_the_validation_error_are_plain_numbers_that_do_not_overlap(accuracies: tuple[float, ...]) -> None:
    epochs = [replace(epoch, validation_accuracy=right) for epoch, right in zip(EPOCHS, accuracies, strict=True)]
    figure = draw_training_curves(epochs, [1e-3] * 30)
    figure.draw_without_rendering()
    low, high = figure.axes[1].get_ylim()
    ticks = [*figure.axes[1].yaxis.get_major_ticks(), *figure.axes[1].yaxis.get_minor_ticks()]
    labels = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert labels
    assert all(float(label.get_text()) > 0 for label in labels)
    drawn = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(drawn, 2))
