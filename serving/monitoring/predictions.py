"""Counters of predictions by class; the names of the classes come with the model in service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.contract import Form

if TYPE_CHECKING:
    from prometheus_client import Counter

# All labels together take at most this much of a worker's file, each with so much around it: 1,000 of usual length.
# After swaps to models with still more, further labels count as `other`.
LABELS_BYTES, SERIES_BYTES = 2**18, 150
OTHER = "other"


class Predictions:
    """Counts predictions by label, and by digit if the classes are digits.

    Series of former models stay: files of the workers cannot lose a series.

    Args:
        by_label: has the label `label`.
        by_digit: has the label `digit`.
    """

    def __init__(self, by_label: Counter, by_digit: Counter) -> None:
        self._by_label = by_label
        self._by_digit = by_digit
        self._labels: set[str] = set()
        self._bytes = 0
        self._current: tuple[Form | None, list[list[Counter]]] = None, []  # of each class

    def start(self, form: Form) -> None:
        """Let the counters of all classes start at 0, so that rates include the first prediction."""
        self._counters_of(form)

    def count(self, predicted: NDArray[np.int64], form: Form) -> None:
        """Add predictions: int64 `[n]`, numbers of classes."""
        counts = np.bincount(predicted, minlength=len(form.classes)).tolist()
        for counters, count in zip(self._counters_of(form), counts, strict=True):
            for counter in counters if count else ():
                counter.inc(count)

    def _counters_of(self, form: Form) -> list[list[Counter]]:
        known, counters = self._current
        if known is not form:
            counters = [[self._by_label.labels(self._label(name))] for name in form.classes]
            if form.has_digits:
                for name, each in zip(form.classes, counters, strict=True):
                    each.append(self._by_digit.labels(name))
            self._current = form, counters
        return counters

    def _label(self, name: str) -> str:
        if name not in self._labels:
            size = len(json.dumps(name)) + SERIES_BYTES
            if self._bytes + size > LABELS_BYTES:
                return OTHER
            self._bytes += size
            self._labels.add(name)
        return name
