import pytest
import torch
from torch.nn import functional

from pipeline.data.dataset import MNIST
from pipeline.networks import MNISTConvNet, count_macs, count_parameters
from pipeline.report import lesson_basics


def test_layers_add_up_to_the_network() -> None:
    layers = lesson_basics.count_layers()
    network = MNISTConvNet(MNIST)
    assert sum(weights for weights, _ in layers.values()) == count_parameters(network)
    assert sum(products for _, products in layers.values()) == count_macs(network)
    assert layers["first convolution"] == (320, 784 * 32 * 9)


def test_slope_of_one_weight_is_the_measured_change_of_the_loss() -> None:
    loss_of, now = lesson_basics.one_weight()
    loss, gradient = lesson_basics.slope(loss_of, now)
    nudged, _ = lesson_basics.slope(loss_of, now + 1e-6)
    assert (nudged - loss) / 1e-6 == pytest.approx(gradient, rel=1e-3)
    assert gradient < 0  # the picture's words: a larger weight lowers the loss


def test_only_the_moved_weight_differs_from_the_network() -> None:
    loss_of, now = lesson_basics.one_weight()
    at_its_value = loss_of(torch.tensor(now, dtype=torch.float64)).item()
    assert 0 < at_its_value < functional.cross_entropy(torch.zeros(1, 10), torch.tensor([0])).item()
    assert loss_of(torch.tensor(now + 1, dtype=torch.float64)).item() != at_its_value


def test_descent_takes_the_learning_rate_times_the_slope() -> None:
    assert lesson_basics.descend(lambda weight: (weight - 1) ** 2, 3.0, 0.25, 3) == [3.0, 2.0, 1.5, 1.25]


def test_learning_rates_of_the_picture_do_what_their_names_state() -> None:
    loss_of, _ = lesson_basics.one_weight()
    ways = {
        name: lesson_basics.descend(loss_of, lesson_basics.START, rate, lesson_basics.DESCENT_STEPS)
        for name, rate in lesson_basics.RATES.items()
    }
    best = ways["good"][-1]
    assert abs(lesson_basics.slope(loss_of, best)[1]) < 0.01
    assert ways["too low"] == sorted(ways["too low"])
    assert best - ways["too low"][-1] > 0.5
    sides = [value > best for value in ways["too high"][-4:]]
    assert sides in ([True, False] * 2, [False, True] * 2)
