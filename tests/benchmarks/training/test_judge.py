"""The judge of a timed training: which network it evaluates, and which time counts."""

import time
from contextlib import suppress
from dataclasses import replace

import pytest

from benchmarks.training import judge as judging
from benchmarks.training.judge import Judge, Reached
from benchmarks.training.sprint import sprint
from benchmarks.training.timed_run import JUDGE_EVERY, finished_at
from pipeline.data.dataset import DataSet, Samples
from pipeline.evaluation import Evaluation, evaluate
from pipeline.networks import Network
from pipeline.training.loop import train
from tests.pipeline.training.test_loop import short
from tests.trained import QUICK

AVERAGED = replace(QUICK, averaging=0.9)


@pytest.fixture
def slow_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances 1 s for each look at it, and 1000 s for each evaluation of the test digits."""
    now = [0.0]

    def evaluate_slowly(network: Network, digits: Samples) -> Evaluation:
        now[0] += 1000.0
        return evaluate(network, digits)

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(judging, "evaluate", evaluate_slowly)
    monkeypatch.setattr(time, "perf_counter", clock)


@pytest.mark.usefixtures("slow_evaluation")
def test_evaluation_pauses_clock_and_confirmed_target_ends_training(tenth: DataSet) -> None:
    judge = Judge(tenth.validation, JUDGE_EVERY, finished_at(0.5))
    with suppress(Reached):
        train(short(AVERAGED, 3, tenth), [judge])
    seconds, accuracies = zip(*judge.curve, strict=True)
    assert len(judge.curve) == 2  # the first epoch has 86 steps and one evaluation; the second confirms the target
    assert min(accuracies) >= 0.5
    assert 0 < seconds[0] < seconds[1] < 50
    assert len(judge.rates) == 1
    assert judge.rates[0] > len(tenth.train) / 50


@pytest.mark.usefixtures("slow_evaluation")
def test_sprint_ends_at_first_evaluation_at_target(tenth: DataSet) -> None:
    judge = sprint(AVERAGED, tenth, tenth.validation, 1, 0.5, 20)
    assert judge
    *before, (seconds, accuracy) = judge.curve
    assert accuracy >= 0.5
    assert all(earlier < 0.5 for _, earlier in before)
    assert 0 < seconds < 50
    assert judge.images == len(judge.curve) * 20 * QUICK.batch_size


def test_sprint_without_target_has_no_time(tenth: DataSet) -> None:
    few = replace(tenth, train=tenth.train[:640])
    assert sprint(replace(QUICK, epochs=1), few, tenth.validation, 1, 2.0, 10**9) is None


def test_averaged_weights_are_evaluated(tenth: DataSet) -> None:
    judge = Judge(tenth.validation, JUDGE_EVERY, finished_at(1.1))
    run = short(AVERAGED, 1, replace(tenth, train=tenth.train[:3200]))
    network = train(run, [judge]).network
    assert judge.curve[-1][1] == pytest.approx(evaluate(network, tenth.validation).accuracy())
