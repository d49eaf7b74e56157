"""Predictions are counted by the labels of the model in service; the number of series has a bound."""

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter

from serving.contract import DIGITS, MNIST, Form
from serving.monitoring.predictions import LABELS_BYTES, Predictions

SIGNS = Form("signs", ("stop", "“yield”", 'no "entry"\\'), 32, 32, 3, {"name": "fit", "background": "edge"})


class Counted:
    """The counters, and their samples as dictionaries."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        by_label = Counter("labelled", "", ["label"], registry=self._registry)
        by_digit = Counter("digits", "", ["digit"], registry=self._registry)
        self.predictions = Predictions(by_label, by_digit)

    def of(self, name: str) -> dict[str, float]:
        samples = (sample for family in self._registry.collect() for sample in family.samples)
        return {next(iter(one.labels.values())): one.value for one in samples if one.name == f"{name}_total"}


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_labels_of_the_model_start_at_0(counted: Counted) -> None:
    counted.predictions.start(SIGNS)
    assert counted.of("labelled") == dict.fromkeys(SIGNS.classes, 0)
    assert counted.of("digits") == {}


def test_digits_are_counted_by_digit_too(counted: Counted) -> None:
    counted.predictions.count(np.array([3, 3, 9]), MNIST)
    expected = {**dict.fromkeys(DIGITS, 0), "3": 2, "9": 1}
    assert counted.of("labelled") == counted.of("digits") == expected


def test_swap_adds_labels_and_keeps_those_of_before(counted: Counted) -> None:
    counted.predictions.count(np.array([3, 3, 9]), MNIST)
    counted.predictions.count(np.array([0, 2, 2]), SIGNS)
    counted.predictions.count(np.array([3]), MNIST)
    counted.predictions.count(np.array([2]), replace(SIGNS))  # the same classes in another model
    assert counted.of("labelled") == {
        **dict.fromkeys(DIGITS, 0),
        "3": 3,
        "9": 1,
        **dict(zip(SIGNS.classes, (1, 0, 3), strict=True)),
    }
    assert counted.of("digits") == {**dict.fromkeys(DIGITS, 0), "3": 3, "9": 1}


def test_number_of_labels_is_bounded(counted: Counted) -> None:
    for version in range(30):
        form = replace(SIGNS, classes=tuple(f"class {version}-{index}" for index in range(100)))
        counted.predictions.count(np.arange(100), form)
    found = counted.of("labelled")
    assert len(found) < LABELS_BYTES / 150
    assert found["other"] > 0
    assert sum(found.values()) == 3000
    counted.predictions.count(np.array([5]), replace(SIGNS, classes=tuple(f"class 0-{n}" for n in range(100))))
    assert counted.of("labelled")["class 0-5"] == 2


def test_a_hundred_labels_of_the_longest_names_have_a_series(counted: Counted) -> None:
    classes = tuple(f"{index:02}{'𝄞' * 98}" for index in range(100))
    counted.predictions.start(replace(SIGNS, classes=classes))
    assert list(counted.of("labelled")) == list(classes)
