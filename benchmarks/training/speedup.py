"""Training times to an accuracy, and their ratios as rows of a Markdown table."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.harness.tables import spread

HEADER = ("theirs", "ours", "ratio, median (min-max)", "bar")


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Seconds to a target accuracy, confirmed by two consecutive evaluations; None if it was not reached.

    Args:
        curve: (seconds, accuracy), in order.
        target: an accuracy; the second of the first two consecutive evaluations at or above it counts.
    """
    for (_, before), (seconds, accuracy) in pairwise(curve):
        if min(before, accuracy) >= target:
            return seconds
    return None


def epochs_needed(accuracies: Sequence[float], target: float) -> int | None:
    """The first epoch, counted from 1, with at least the target accuracy; None if there is none."""
    return next((epoch for epoch, accuracy in enumerate(accuracies, start=1) if accuracy >= target), None)


@dataclass(frozen=True)
class Speedup:
    """One quantity of both contenders, with a number for each round: seconds, or a rate if `more_is_better`."""

    what: str
    theirs: Sequence[float]
    ours: Sequence[float]  # seconds are infinite if the target was not reached
    bar: float | None = None  # smallest ratio to reach
    more_is_better: bool = False
    at_least: bool = False  # they missed the target: their seconds are a lower bound

    def ratios(self) -> list[float]:
        """The factor by which ours is better, for each round."""
        pairs = zip(self.theirs, self.ours, strict=True)
        return [ours / theirs if self.more_is_better else theirs / ours for theirs, ours in pairs]

    def row(self) -> tuple[str, ...]:
        """The cells of its row: medians, and the ratio's median and spread."""
        ratio = f"{'at least ' if self.at_least else ''}{spread(self.ratios(), '.1f')}"
        if math.inf in self.ours:
            ratio = f"{spread(self.ratios(), '.1f')}, 0 if ours missed the target"
        met = statistics.median(self.ratios()) >= self.bar if self.bar else None
        verdict = f"{self.bar:g}: {'reached' if met else 'missed'}" if self.bar else ""
        theirs = f"{'more than ' if self.at_least else ''}{_median(self.theirs)}"
        return self.what, theirs, _median(self.ours), ratio, verdict


def _median(values: Sequence[float]) -> str:
    median = statistics.median(values)
    return "never" if math.isinf(median) else f"{median:,.{1 if median < 1000 else 0}f}"
