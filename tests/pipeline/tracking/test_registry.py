import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion

from pipeline.tracking import registry


def reading(right: int, of: int = 5_000, but: int = 0) -> np.ndarray:
    """Which digits are read right: `right` of them, leaving out the first `but`."""
    mask = np.zeros(of, dtype=bool)
    mask[but : but + right] = True
    return mask


def version(number: int, data: str) -> ModelVersion:
    found = ModelVersion("digits", str(number), 0)
    found._add_tag(type("Tag", (), {"key": "data", "value": data}))
    return found


def test_first_candidate_needs_only_the_minimum() -> None:
    assert registry.judge(reading(4_900), None, 0.98, 0.05).promoted
    refused = registry.judge(reading(4_899), None, 0.98, 0.05)
    assert not refused.promoted
    assert refused.reason == "it reads 97.98% of the validation digits right, and 98.00% are required"


def test_candidate_below_the_minimum_loses_even_against_a_worse_champion() -> None:
    assert not registry.judge(reading(4_000), reading(3_000), 0.98, 0.05).promoted


def test_better_and_equal_candidates_win() -> None:
    assert registry.judge(reading(4_980), reading(4_970), 0.98, 0.05).promoted
    equal = registry.judge(reading(4_970), reading(4_970), 0.98, 0.05)
    assert equal.promoted
    assert "(0 won, 0 lost, p = 1.000)" in equal.reason


def test_candidate_that_loses_is_refused_with_the_reason() -> None:
    # the champion alone reads 20 digits, the candidate alone 6: p = 0.0047 for an equal model to do as badly
    verdict = registry.judge(reading(4_906, but=20), reading(4_920), 0.98, 0.05)
    assert not verdict.promoted
    assert verdict.reason == (
        "it is worse than the champion: 98.12% against the champion's 98.40% of the validation digits "
        "(6 won, 20 lost, p = 0.005)"
    )


def test_pairs_decide_not_totals() -> None:
    # 14 digits fewer in both cases; where both also win many, the difference is noise
    assert not registry.judge(reading(4_906, but=20), reading(4_920), 0.9, 0.05).promoted
    assert registry.judge(reading(4_786, but=200), reading(4_800), 0.9, 0.05).promoted


def test_small_losses_are_chance() -> None:
    verdict = registry.judge(reading(4_970), reading(4_973), 0.98, 0.05)
    assert verdict.promoted
    assert "p = 0.125" in verdict.reason


def test_significance_is_heeded() -> None:
    assert not registry.judge(reading(4_970), reading(4_973), 0.98, 0.2).promoted


@pytest.mark.parametrize(
    ("candidate", "champion", "allowed"),
    [("tenth", "full", False), ("tenth", "tenth", True), ("full", "tenth", True), ("full", "full", True)],
)
def test_model_of_the_tenth_never_replaces_one_of_the_full_set(candidate: str, champion: str, allowed: bool) -> None:
    verdict = registry.may_replace(version(2, candidate), version(1, champion))
    assert (verdict is None) == allowed
    if verdict:
        assert not verdict.promoted
        assert "bundled tenth" in verdict.reason


def test_model_of_the_tenth_may_be_the_first_champion() -> None:
    assert registry.may_replace(version(1, "tenth"), None) is None
