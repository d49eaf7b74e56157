"""What `benchmarks.training` makes of the times that it took."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """When a network had reached an accuracy: at the second of two judgements in a row that find it.

    Args:
        curve: (seconds, accuracy), in order.
        target: the accuracy.

    Returns:
        The seconds, or None if it was not reached.
    """
    for (_, before), (seconds, accuracy) in pairwise(curve):
        if min(before, accuracy) >= target:
            return seconds
    return None


def epochs_needed(accuracies: Sequence[float], target: float) -> int | None:
    """The first epoch, counted from 1, after which the accuracy was at least the target; None if none was."""
    return next((epoch for epoch, accuracy in enumerate(accuracies, start=1) if accuracy >= target), None)


@dataclass(frozen=True)
class Comparison:
    """One thing that both were measured by, with a number from each round: seconds, or a rate if `more_is_better`."""

    what: str
    theirs: Sequence[float]
    ours: Sequence[float]  # infinite seconds: never
    bar: float | None = None  # the ratio that is wanted
    more_is_better: bool = False
    at_least: bool = False  # they did not get there: what they took is less than what they need

    def ratios(self) -> list[float]:
        """How much better ours is, in each round."""
        pairs = zip(self.theirs, self.ours, strict=True)
        return [ours / theirs if self.more_is_better else theirs / ours for theirs, ours in pairs]

    def row(self) -> str:
        """A row of the Markdown table: medians, and the ratio's median and spread."""
        ratio = f"{'at least ' if self.at_least else ''}{spread(self.ratios(), '.1f')}"
        if math.inf in self.ours:
            ratio = f"{spread(self.ratios(), '.1f')}, 0 where ours never got there"
        met = statistics.median(self.ratios()) >= self.bar if self.bar else None
        verdict = f"{self.bar:g}: {'reached' if met else 'missed'}" if self.bar else ""
        theirs = f"{'more than ' if self.at_least else ''}{_median(self.theirs)}"
        return f"| {self.what} | {theirs} | {_median(self.ours)} | {ratio} | {verdict} |"


def spread(values: Sequence[float], form: str) -> str:
    """Median (smallest-largest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def _median(values: Sequence[float]) -> str:
    median = statistics.median(values)
    return "never" if math.isinf(median) else f"{median:,.{1 if median < 1000 else 0}f}"
