"""The comparison of training: its ratios, its errors, and a short run."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.processes import ROOT, BenchmarkError
from benchmarks.harness.tables import markdown
from benchmarks.training import __main__ as training

OURS: list[Any] = [
    {"curve": [(10.0, 0.985), (20.0, 0.991), (30.0, 0.993), (40.0, 0.993)], "rates": [3000.0, 5000.0]},
    {"curve": [(10.0, 0.991), (20.0, 0.992), (30.0, 0.992)], "rates": [4000.0]},
]


def theirs(*accuracies: float) -> list[Any]:
    return [{"seconds": 60.0, "images_per_second": 1000.0, "test_accuracy": accuracy} for accuracy in accuracies]


def test_ratio_multiplies_seconds_by_epochs_needed() -> None:
    (only,) = training.times(theirs(0.988, 0.993), OURS, 0.992, 10)
    assert only.ratios() == [120 / 40, 120 / 30]
    assert only.row() == ("s to 99.2 % on test (their epoch 2)", "120.0", "35.0", "3.5 (3.0-4.0)", "10: missed")


def test_missed_target_of_theirs_adds_row_for_their_best() -> None:
    target, best = training.times(theirs(0.991, 0.985), OURS, 0.992, 3)
    assert target.row() == (
        "s to 99.2 % on test (not reached by their epoch 2)", "more than 120.0", "35.0", "at least 3.5 (3.0-4.0)",
        "3: reached",
    )  # fmt: skip
    assert best.row() == ("s to their best, 99.10 % on test (their epoch 1)", "60.0", "25.0", "2.5 (2.0-3.0)", "")
    assert markdown(["a", "b"], [[1, 2]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_rates_divide_ours_by_theirs() -> None:
    assert training.rates(theirs(0.98, 0.99), OURS, 3).ratios() == [4.0, 4.0]


@pytest.mark.parametrize("folder", [None, "empty"])
def test_error_without_data_names_the_files(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MNIST_DIR", raising=False)
    if folder:
        monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"the folder that holds MNIST/raw/ with MNIST's four files"):
        training.compete(argparse.Namespace(limit=None))


@pytest.mark.full
def test_short_run_prints_all_tables() -> None:
    command = [sys.executable, "-m", "benchmarks.training", "--rounds", "1", "--limit", "320"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    assert "round 1 of 1: the chapter's loop, epoch 1: " in done.stdout
    assert "round 1 of 1: `default`, did not reach 99.2 % on test" in done.stdout
    assert "| images/s in an epoch | " in done.stdout
    assert "Peak memory: " in done.stdout
