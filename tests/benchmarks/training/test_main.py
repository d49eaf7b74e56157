"""What the comparison makes of its measurements, and that it runs."""

import argparse
import math
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.harness.ratios import Comparison, epochs_needed, reached
from benchmarks.training import __main__ as training

ROOT = training.ROOT
OURS: list[Any] = [
    {"curve": [(10.0, 0.985), (20.0, 0.991), (30.0, 0.993), (40.0, 0.993)], "rates": [3000.0, 5000.0]},
    {"curve": [(10.0, 0.991), (20.0, 0.992), (30.0, 0.992)], "rates": [4000.0]},
]


def theirs(*accuracies: float) -> list[Any]:
    return [{"seconds": 60.0, "images_per_second": 1000.0, "test_accuracy": accuracy} for accuracy in accuracies]


def test_an_accuracy_is_reached_by_two_judgements_in_a_row() -> None:
    curve = [(1.0, 0.992), (2.0, 0.99), (3.0, 0.992), (4.0, 9_920 / 10_000), (5.0, 0.995)]
    assert reached(curve, 0.992) == 4.0
    assert reached(curve, 0.996) is None
    assert reached([], 0.9) is None


def test_epochs_are_counted_to_the_first_that_reached() -> None:
    assert epochs_needed([0.98, 0.992, 0.991, 0.993], 0.992) == 2
    assert epochs_needed([0.98, 0.99], 0.992) is None


def test_ratio_is_of_the_epochs_that_they_needed() -> None:
    (only,) = training.times(theirs(0.988, 0.993), OURS, 0.992, 10)
    assert only.ratios() == [120 / 40, 120 / 30]
    assert only.row() == "| s to 99.2 % on test (their epoch 2) | 120.0 | 35.0 | 3.5 (3.0-4.0) | 10: missed |"


def test_a_target_that_they_missed_is_said_and_their_best_is_compared() -> None:
    target, best = training.times(theirs(0.991, 0.985), OURS, 0.992, 3)
    assert target.row() == (
        "| s to 99.2 % on test (not reached by their epoch 2) | more than 120.0 | 35.0 | "
        "at least 3.5 (3.0-4.0) | 3: reached |"
    )
    assert best.row() == "| s to their best, 99.10 % on test (their epoch 1) | 60.0 | 25.0 | 2.5 (2.0-3.0) |  |"


def test_a_target_that_we_missed_is_no_success() -> None:
    missed = Comparison("s", [60.0, 60.0], [30.0, math.inf], bar=1.5, at_least=True)
    assert missed.row() == "| s | more than 60.0 | never | 1.0 (0.0-2.0), 0 where ours never got there | 1.5: missed |"


def test_rates_compare_the_other_way() -> None:
    assert training.rates(theirs(0.98, 0.99), OURS, 3).ratios() == [4.0, 4.0]


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_data_a_sentence_says_what_to_do(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MNIST_DIR", raising=False)
    if folder:
        monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    with pytest.raises(training.BenchmarkError, match=r"the folder that holds MNIST/raw/ with MNIST's four files"):
        training.compete(argparse.Namespace(limit=None))


def test_a_competitor_that_ends_is_named() -> None:
    with (
        pytest.raises(training.BenchmarkError, match="the sleeper ended with exit code 3"),
        training.Competitor("the sleeper", [sys.executable, "-c", "raise SystemExit(3)"]) as sleeper,
    ):
        sleeper.introduce()


def test_a_competitor_works_in_its_turn_and_ends_with_the_benchmark() -> None:
    echo = "import sys; print('{}', flush=True); [print(line, end='', flush=True) for line in sys.stdin]"
    with training.Competitor("echo", [sys.executable, "-c", echo]) as competitor:
        assert competitor.introduce() == {}
        assert competitor.turn(1) == 1
        assert competitor.turn([2]) == [2]
    assert competitor._process.returncode is not None


@pytest.mark.full
def test_it_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.training", "--rounds", "1", "--limit", "320"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    assert "round 1 of 1: the chapter's loop, epoch 1: " in done.stdout
    assert "round 1 of 1: `default`, did not reach 99.2 % on test" in done.stdout
    assert "| images/s in an epoch | " in done.stdout
    assert "Peak memory: " in done.stdout
