"""The table of a comparison on a cluster."""

from benchmarks.training import sweep
from benchmarks.training.sweep import LOOP, Sweep


def test_ratio_is_that_of_neighbours_in_time() -> None:
    loop = [Sweep(seconds, [0, 9, 11, 13]) for seconds in (10.0, 30.0, 20.0)]
    ray = [Sweep(seconds, [0, 9, 12, 15]) for seconds in (20.0, 15.0, 20.0)]
    rows = sweep.table({LOOP: loop, "Ray": ray}).splitlines()
    assert rows[2] == "| loop | 20.0 (10.0-30.0) | 1.00 (1.00-1.00) | 2.00 (2.00-2.00) |"
    assert rows[3] == "| Ray | 20.0 (15.0-20.0) | 1.00 (0.50-2.00) | 3.00 (3.00-3.00) |"


def test_first_runs_do_not_count_between_runs() -> None:
    assert Sweep(1.0, [0, 100, 102, 105, 109]).between == 3
