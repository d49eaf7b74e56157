from dataclasses import replace

import pytest

from pipeline.data.dataset import DataSet
from pipeline.recipes import DenseArchitecture
from pipeline.training.loop import train
from pipeline.training.schedule import learning_rates
from tests.pipeline.training.test_loop import short
from tests.trained import QUICK

DENSE = replace(QUICK, network=DenseArchitecture())


@pytest.mark.parametrize("one_cycle", [True, False])
def test_learning_rates_match_those_of_training(one_cycle: bool, tenth: DataSet) -> None:
    recipe = replace(DENSE, one_cycle=one_cycle)
    epochs = train(short(recipe, 4, tenth, 640)).epochs
    rates = learning_rates(recipe, 40)
    assert len(rates) == 40
    assert [rates[epoch.step] for epoch in epochs[:-1]] == [epoch.learning_rate for epoch in epochs[:-1]]


@pytest.mark.parametrize(("warm_up", "steps"), [(0.25, 4), (0.0, 4), (0.5, 2), (0.1, 1), (0.0, 1)])
def test_one_cycle_may_have_no_warm_up(warm_up: float, steps: int) -> None:
    rates = learning_rates(replace(DENSE, warm_up=warm_up), steps)
    assert len(rates) == steps
    assert max(rates) <= DENSE.learning_rate * (1 + 1e-9)


def test_one_cycle_rises_to_the_recipes_rate_and_falls_to_nearly_zero() -> None:
    rates = learning_rates(DENSE, 100)
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(DENSE.learning_rate, rel=0.01)
    assert peak == pytest.approx(DENSE.warm_up * 100, abs=1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < rates[0] < rates[peak]
