import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from pipeline import export, promotion
from pipeline.data.dataset import MNIST, DataSet
from pipeline.networks import Network
from pipeline.promotion import Gate, Verdict
from pipeline.tracking import registry
from pipeline.tracking.registry import RegistryError, Version


def reading(right: int, of: int = 5_000, but: int = 0) -> np.ndarray:
    """Which digits are read right: `right` of them, leaving out the first `but`."""
    mask = np.zeros(of, dtype=bool)
    mask[but : but + right] = True
    return mask


def version(number: int, subset: str, dataset: str = "mnist", model: str = "digits") -> Version:
    return Version(number, "0" * 32, {"subset": subset, "dataset": dataset}, model=model)


def judge(candidate: np.ndarray, champion: np.ndarray | None, minimum_accuracy: float, significance: float) -> Verdict:
    return promotion.judge(candidate, champion, Gate(minimum_accuracy, significance))


def test_first_candidate_needs_only_the_minimum() -> None:
    assert judge(reading(4_900), None, 0.98, 0.05).promoted
    refused = judge(reading(4_899), None, 0.98, 0.05)
    assert not refused.promoted
    assert refused.reason == "it classifies 97.98% of the validation pictures correctly, and 98.00% are required"


def test_candidate_below_the_minimum_loses_even_against_a_worse_champion() -> None:
    assert not judge(reading(4_000), reading(3_000), 0.98, 0.05).promoted


def test_better_and_equal_candidates_win() -> None:
    assert judge(reading(4_980), reading(4_970), 0.98, 0.05).promoted
    equal = judge(reading(4_970), reading(4_970), 0.98, 0.05)
    assert equal.promoted
    assert "(0 won, 0 lost, p = 1.000)" in equal.reason


def test_candidate_that_loses_is_refused_with_the_reason() -> None:
    # the champion alone reads 20 digits, the candidate alone 6: p = 0.0047 for an equal model to do as badly
    verdict = judge(reading(4_906, but=20), reading(4_920), 0.98, 0.05)
    assert not verdict.promoted
    assert verdict.reason == (
        "it is worse than the champion: 98.12% against the champion's 98.40% of the validation pictures "
        "(6 won, 20 lost, p = 0.005)"
    )


def test_pairs_decide_not_totals() -> None:
    # 14 digits fewer in both cases; where both also win many, the difference is noise
    assert not judge(reading(4_906, but=20), reading(4_920), 0.9, 0.05).promoted
    assert judge(reading(4_786, but=200), reading(4_800), 0.9, 0.05).promoted


def test_small_losses_are_chance() -> None:
    verdict = judge(reading(4_970), reading(4_973), 0.98, 0.05)
    assert verdict.promoted
    assert "p = 0.125" in verdict.reason


def test_significance_is_heeded() -> None:
    assert not judge(reading(4_970), reading(4_973), 0.98, 0.2).promoted


@pytest.mark.parametrize(
    ("candidate", "champion", "allowed"),
    [("tenth", "full", False), ("tenth", "tenth", True), ("full", "tenth", True), ("full", "full", True)],
)
def test_model_of_the_tenth_never_replaces_one_of_the_full_set(candidate: str, champion: str, allowed: bool) -> None:
    verdict = promotion.may_replace(version(2, candidate), version(1, champion))
    assert (verdict is None) == allowed
    if verdict:
        assert not verdict.promoted
        assert "bundled tenth" in verdict.reason


def test_subset_of_an_earlier_release_counts() -> None:
    old, new = Version(1, "0" * 32, {"data": "full"}), version(2, "tenth")
    assert promotion.may_replace(new, old)
    assert not promotion.may_replace(new, Version(1, "0" * 32, {"data": "tenth"}))


def test_version_of_another_data_set_is_refused() -> None:
    verdict = promotion.may_replace(version(2, "full", "fashion-mnist"), version(1, "full"))
    assert verdict == Verdict(False, "it was trained on fashion-mnist, which is not the data set of digits")
    assert promotion.may_replace(version(2, "full", "fashion-mnist", "fashion-mnist"), None) is None


def test_model_of_the_tenth_may_be_the_first_champion() -> None:
    assert promotion.may_replace(version(1, "tenth"), None) is None


@pytest.fixture
def versions(tmp_path: Path, linear_model: Path) -> Iterator[list[Version]]:
    """Two versions in an embedded registry: one of the bundled tenth (`previous`), one of the full set (`champion`)."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_registered_model("digits")
    for data in ("tenth", "full"):
        (tmp_path / data).mkdir()
        shutil.copy(linear_model, tmp_path / data / "model.onnx")
        client.create_model_version("digits", (tmp_path / data).as_uri(), tags={"data": data})
    found = [registry.get(1), registry.get(2)]
    registry.set_alias("previous", found[0])
    registry.set_alias("champion", found[1])
    yield found
    mlflow.set_tracking_uri(before)


def aliases() -> tuple[int, int]:
    champion, previous = registry.by_alias("champion"), registry.by_alias("previous")
    assert champion and previous
    return champion.number, previous.number


def test_rollback_to_a_model_of_the_tenth_needs_confirmation(versions: list[Version]) -> None:
    with pytest.raises(RegistryError, match=r"Version 1 was trained on the bundled tenth.*add --yes"):
        promotion.rollback("digits", confirmed=False)
    assert aliases() == (2, 1)
    assert promotion.rollback("digits", confirmed=True) == (versions[0], versions[1])
    assert aliases() == (1, 2)
    promotion.rollback("digits", confirmed=False)  # back to the full set: nothing to confirm
    assert aliases() == (2, 1)


@pytest.fixture
def candidates(tmp_path: Path, network: Network, tenth: DataSet) -> Iterator[Callable[..., Version]]:
    """Register the trained network with another metadata, as the next version of `digits`."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_registered_model("digits")

    def register(classes: str = "0123456789", **tags: str) -> Version:
        folder = tmp_path / str(len(registry.all_versions()) + 1)
        changed = copy.deepcopy(network)
        changed.task = replace(MNIST, classes=tuple(classes))
        export.export(changed, 1.0, {}, tenth.validation[:20], [tenth.validation[:20]], folder / "model.onnx")
        number = client.create_model_version("digits", folder.as_uri(), tags={"subset": "tenth", **tags}).version
        return registry.get(int(number))

    yield register
    mlflow.set_tracking_uri(before)


def test_foreign_champion_is_replaced_without_a_comparison(candidates: Callable[..., Version], tenth: DataSet) -> None:
    foreign, candidate = candidates(dataset="fashion-mnist"), candidates(dataset="mnist")
    registry.set_alias("champion", foreign)
    verdict = promotion.consider(candidate, tenth.validation, Gate(0.9, 0.05))
    assert verdict.promoted
    assert verdict.reason.endswith("correctly, and the champion, version 1, was trained on fashion-mnist")
    assert registry.by_alias("previous") is None  # nothing to go back to


def test_champion_with_other_classes_is_replaced_only_by_name(
    candidates: Callable[..., Version], tenth: DataSet
) -> None:
    champion, candidate = candidates(), candidates(classes="abcdefghij")
    registry.set_alias("champion", champion)
    verdict = promotion.consider(candidate, tenth.validation, Gate(0.9, 0.05))
    assert not verdict.promoted
    assert verdict.reason == (
        "it cannot be compared with the champion: its classes differ (new: a, b, c, d, e and 5 more; "
        "gone: 0, 1, 2, 3, 4 and 5 more); `promote --version 2` replaces the champion all the same"
    )
    verdict = promotion.consider(candidate, tenth.validation, Gate(0.9, 0.05), explicit=True)
    assert verdict.promoted
    assert "correctly, and it cannot be compared with the champion: its classes differ (" in verdict.reason
    assert aliases() == (2, 1)


def test_version_for_pictures_of_another_size_is_refused(candidates: Callable[..., Version], tenth: DataSet) -> None:
    smaller = replace(tenth.validation, images=tenth.validation.images[:, :20, :20])
    verdict = promotion.consider(candidates(), smaller, Gate(0.9, 0.05))
    assert not verdict.promoted
    assert verdict.reason == "it takes 28x28 pixels in grey, and the pictures of the data set have 20x20 pixels in grey"
