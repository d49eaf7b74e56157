import numpy as np
import pytest
import torch

from pipeline.recipes import RECIPES, Augmentation
from pipeline.report import lesson_recipe
from pipeline.report.lesson_basics import bundled_digits
from pipeline.training.augmentation import distort
from pipeline.training.schedule import learning_rates


def test_augmentation_shows_what_the_recipes_code_makes_of_a_digit() -> None:
    (axes,) = lesson_recipe.draw_augmentation().axes
    tiles = [np.asarray(image.get_array()) for image in axes.images]
    assert len(tiles) == 5 * 6
    train = bundled_digits().train
    digit = train.images[train.labels == 4][:1].float()
    assert all(np.array_equal(tile, digit[0]) for tile in tiles[::6])
    bent = distort(digit.repeat(5, 1, 1), RECIPES["default"].augmentation, torch.Generator().manual_seed(3))
    assert np.array_equal(np.stack(tiles[-5:]), bent)
    assert RECIPES["default"].augmentation == Augmentation(rotation=10, scale=0.15, shear=8, shift=1)


def test_smoothed_loss_is_lowest_at_the_smoothed_target() -> None:
    probability = torch.linspace(0.5, 0.999, 500)
    lowest = probability[lesson_recipe.smoothed_loss(probability, 0.05).argmin()].item()
    assert lowest == pytest.approx(0.955, abs=0.001)
    assert lesson_recipe.smoothed_loss(torch.tensor([0.25]), 0.0).item() == pytest.approx(np.log(4), abs=1e-5)


def test_learning_rate_is_that_of_training() -> None:
    (axes,) = lesson_recipe.draw_learning_rate().axes
    rates = axes.lines[0].get_ydata()
    assert np.array_equal(rates, learning_rates(RECIPES["default"], 430 * 8))
    assert set(np.asarray(axes.lines[1].get_ydata()).tolist()) == {RECIPES["chapter"].learning_rate}


def test_average_jumps_less_than_the_weights_and_its_loss_is_lower_in_the_end() -> None:
    steps = np.array(list(lesson_recipe.average_weights()))
    assert steps.shape == (lesson_recipe.AVERAGED_STEPS, 4)
    weight, average, loss, loss_of_average = steps.T
    assert np.abs(np.diff(average)).sum() < np.abs(np.diff(weight)).sum()
    assert np.allclose(average[1:], average[:-1] + (1 - lesson_recipe.DECAY) * (weight[1:] - average[:-1]), atol=1e-6)
    assert loss_of_average[-40:].mean() < loss[-40:].mean()
