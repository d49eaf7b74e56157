"""Our side of the comparison: what is judged, and what the clock counts."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from benchmarks.training import timed_run as recipe
from pipeline.data.dataset import DataSet, Digits
from pipeline.evaluation import evaluate
from pipeline.training.loop import train
from tests.conftest import QUICK

CPU = torch.device("cpu")
AVERAGED = replace(QUICK, averaging=0.9)


def test_judgements_pause_the_clock_and_training_ends_when_the_target_is_reached(
    tenth: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def evaluate_slowly(*arguments):
        now[0] += 1000.0
        return evaluate(*arguments)

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(recipe, "evaluate", evaluate_slowly)
    monkeypatch.setattr(recipe.time, "perf_counter", clock)
    test = Digits(tenth.validation.images, tenth.validation.labels)
    judge = recipe.Judge(test, target=0.5)
    with suppress(recipe.Reached):
        train(AVERAGED, 3, tenth.train, tenth.validation, CPU, 1, [judge], watch=judge.watch)
    seconds, accuracies = zip(*judge.curve, strict=True)
    assert len(judge.curve) == 2  # of 86 steps in the first epoch one is judged: the target is reached in the second
    assert min(accuracies) >= 0.5
    assert 0 < seconds[0] < seconds[1] < 50
    assert len(judge.rates) == 1
    assert judge.rates[0] > len(tenth.train) / 50


def test_network_with_the_averaged_weights_is_judged(tenth: DataSet) -> None:
    judge = recipe.Judge(tenth.validation, target=1.1)
    few = Digits(tenth.train.images[:3200], tenth.train.labels[:3200])
    network = train(AVERAGED, 1, few, tenth.validation, CPU, 1, [judge], watch=judge.watch)
    assert judge.curve[-1][1] == pytest.approx(evaluate(network, tenth.validation).accuracy())


def test_operations_of_the_chapters_network_are_counted() -> None:
    first, second, hidden, output = 28 * 28 * 32 * 9, 14 * 14 * 64 * 32 * 9, 3136 * 128, 1280
    # forward, gradients of the weights, and of the inputs: but not of the pictures
    by_hand = 2 * (2 * first + 3 * (second + hidden + output))
    assert recipe.operations(QUICK, 64) == by_hand


def test_a_rate_is_measured() -> None:
    assert recipe.multiplications(CPU, torch.float32) > 1e8
