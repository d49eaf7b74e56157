"""Times to an accuracy, and their ratios."""

import math

from benchmarks.training.speedup import Speedup, epochs_needed, reached


def test_target_is_reached_at_second_of_two_consecutive_evaluations() -> None:
    curve = [(1.0, 0.992), (2.0, 0.99), (3.0, 0.992), (4.0, 9_920 / 10_000), (5.0, 0.995)]
    assert reached(curve, 0.992) == 4.0
    assert reached(curve, 0.996) is None
    assert reached([], 0.9) is None


def test_epochs_count_to_first_that_reaches_target() -> None:
    assert epochs_needed([0.98, 0.992, 0.991, 0.993], 0.992) == 2
    assert epochs_needed([0.98, 0.99], 0.992) is None


def test_target_missed_by_ours_is_no_success() -> None:
    missed = Speedup("s", [60.0, 60.0], [30.0, math.inf], bar=1.5, at_least=True)
    assert missed.row() == ("s", "more than 60.0", "never", "1.0 (0.0-2.0), 0 if ours missed the target", "1.5: missed")
