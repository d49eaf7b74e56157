import numpy as np
import pytest

from pipeline.report.curves import draw_training_curves
from pipeline.report.style import render
from pipeline.training.loop import Epoch

EPOCHS = [Epoch(n, 10 * n, [], 1 / n, 0.9 / n, 1 - 0.1 / n, 1e-3, 1000.0, 1.0) for n in (1, 2, 3)]


def test_losses_errors_and_learning_rates_are_drawn_by_the_epoch() -> None:
    rates = [step / 30 for step in range(30)]
    figure = draw_training_curves(EPOCHS, rates)
    loss, error, rate = figure.axes
    assert "96.67% of the validation digits right after 3 epochs" in figure.texts[0].get_text()
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(1, 1), (2, 1 / 2), (3, 1 / 3)])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [0.9, 0.45, 0.3])
    np.testing.assert_allclose(error.lines[0].get_ydata(), [10, 5, 10 / 3])
    assert list(rate.lines[0].get_ydata()) == rates
    assert rate.lines[0].get_xdata()[0] == pytest.approx(0.1)
    assert rate.lines[0].get_xdata()[-1] == 3
    assert render(figure)


def test_one_epoch_without_a_mistake_can_be_drawn() -> None:
    figure = draw_training_curves([Epoch(1, 10, [], 0.1, 0.1, 1.0, 1e-3, 1000.0, 1.0)], [1e-3] * 10)
    assert "after 1 epoch" in figure.texts[0].get_text()
    assert render(figure)
