"""The gate: whether a version becomes champion, the recorded reason, and the rollback.

A version is judged as it will be served: by ONNX Runtime, from the registered file, on the validation digits.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.data.dataset import Digits
from pipeline.export import predict
from pipeline.tracking import registry
from pipeline.tracking.registry import CHAMPION, MODEL, PREVIOUS, DamagedFileError, RegistryError, Version

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """The requirements for a champion.

    Attributes:
        minimum_accuracy: share of the validation digits that must be read correctly, 0 to 1.
        significance: p-value below which a candidate counts as worse than the champion, 0 to 1.
    """

    minimum_accuracy: float
    significance: float


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate becomes champion, and the reason as a clause."""

    promoted: bool
    reason: str


def consider(candidate: Version, validation: Digits, gate: Gate, replace_damaged: bool = False) -> Verdict:
    """Judge a version against the champion, move the aliases if it passes, and record the verdict in its tags.

    Args:
        candidate: the version to judge.
        validation: the digits that both are judged on.
        gate: the requirements.
        replace_damaged: judge by the minimum alone if the champion's file is damaged. The same training, repeated,
            always may replace its damaged result.

    Raises:
        RegistryError: the champion's file is damaged, so that nothing can be compared with it.
    """
    champion = registry.by_alias(CHAMPION)
    if champion and champion.number == candidate.number:  # its promotion was interrupted before the verdict was written
        champion = registry.by_alias(PREVIOUS)
    verdict = may_replace(candidate, champion)
    if verdict is None:
        correct = _correct(candidate, validation)
        try:
            verdict = judge(correct, _correct(champion, validation) if champion else None, gate)
        except DamagedFileError as damage:
            assert champion
            if not replace_damaged and champion.tags.get("fingerprint") != candidate.tags.get("fingerprint", ""):
                raise RegistryError(
                    f"Version {candidate.number} cannot be compared with the champion, because {damage.what}: "
                    f"go back by `rollback`, or replace it by `promote --version {candidate.number}`."
                ) from damage
            verdict = judge(correct, None, gate, f"{damage.what}, so it could not be compared with the champion")
            champion = registry.by_alias(PREVIOUS)  # a damaged version is nothing to go back to
    _record(candidate, verdict, champion)
    return verdict


def judge(
    correct: NDArray[np.bool_],
    champion_correct: NDArray[np.bool_] | None,
    gate: Gate,
    unrivalled: str = "there was no champion",
) -> Verdict:
    """Compare a candidate with the minimum and with the champion.

    The candidate must reach the minimum and must not lose to the champion. It loses if, among the digits that exactly
    one of the two reads correctly, its share is so small that an equally good model would do as badly with a
    probability below `gate.significance`.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions" (1947), in its
    exact, one-sided form.

    Args:
        correct: which validation digits the candidate reads correctly, bool [n].
        champion_correct: the same for the champion, on the same digits; None if there is no champion.
        gate: the requirements.
        unrivalled: why there is no champion to compare with, as a clause.
    """
    accuracy = float(correct.mean())
    if accuracy < gate.minimum_accuracy:
        return Verdict(
            False,
            f"it reads {accuracy:.2%} of the validation digits correctly, and {gate.minimum_accuracy:.2%} are required",
        )
    if champion_correct is None:
        return Verdict(True, f"it reads {accuracy:.2%} of the validation digits correctly, and {unrivalled}")
    won, lost = int((correct & ~champion_correct).sum()), int((champion_correct & ~correct).sum())
    p = binomtest(won, won + lost, alternative="less").pvalue if won + lost else 1.0
    compared = (
        f"{accuracy:.2%} against the champion's {champion_correct.mean():.2%} of the validation digits "
        f"({won} won, {lost} lost, p = {p:.3f})"
    )
    if p < gate.significance:
        return Verdict(False, f"it is worse than the champion: {compared}")
    return Verdict(True, f"it does not lose to the champion: {compared}")


def may_replace(candidate: Version, champion: Version | None) -> Verdict | None:
    """The verdict that needs no digits: a model of the subset never replaces one of the full set."""
    if champion and champion.tags.get("data") == "full" and candidate.tags.get("data") == "tenth":
        return Verdict(False, "it was trained on the bundled tenth, and the champion on the full set")
    return None


def is_judged(version: Version) -> bool:
    """Whether the gate's verdict on a version is recorded."""
    return "verdict" in version.tags


def require_champion(considered: Version) -> None:
    """Log which version is champion.

    Raises:
        RegistryError: there is none, because the gate refused the version under consideration, or its file is damaged.
    """
    champion = registry.by_alias(CHAMPION)
    if champion is None:
        reason = registry.get(considered.number).tags.get("verdict")
        raise RegistryError(f"There is no champion to serve: version {considered.number} was not promoted: {reason}.")
    try:
        registry.check(champion)
    except DamagedFileError as damage:
        raise RegistryError(
            f"The champion cannot be served, because {damage.what}: go back by `rollback`, replace it by "
            "`promote --version`, or restore a backup."
        ) from damage
    log.info(
        "Champion: version %s (%s, %.2f %% on the test digits).",
        champion.number, champion.tags.get("recipe"), 100 * float(champion.tags.get("test_accuracy", "nan")),
    )  # fmt: skip


def rollback(confirmed: bool) -> tuple[Version, Version]:
    """Swap `champion` and `previous`; a second rollback undoes the first.

    Args:
        confirmed: whether a model of the subset may take the place of one of the full set.

    Returns:
        The new and the former champion.

    Raises:
        RegistryError: there is no previous version, its file is damaged, or it needs confirmation.
    """
    champion, previous = registry.by_alias(CHAMPION), registry.by_alias(PREVIOUS)
    if champion is None or previous is None:
        raise RegistryError(f"{MODEL} has no previous version to go back to; see `python -m pipeline status`.")
    refusal = may_replace(previous, champion)
    if refusal and not confirmed:
        raise RegistryError(
            f"Version {previous.number} was trained on the bundled tenth, and the champion, version {champion.number}, "
            "on the full set: add --yes to serve it all the same."
        )
    registry.check(previous)
    registry.set_alias(CHAMPION, previous)
    registry.set_alias(PREVIOUS, champion)
    return previous, champion


def _record(candidate: Version, verdict: Verdict, champion: Version | None) -> None:
    """Move the aliases if the candidate is promoted, and write the verdict into its tags.

    The verdict comes after the aliases: if this is interrupted, the next `train` judges the version again.
    """
    if verdict.promoted:
        if champion:
            registry.set_alias(PREVIOUS, champion)
        registry.set_alias(CHAMPION, candidate)
    tags = {"promoted": str(verdict.promoted).lower(), "verdict": verdict.reason}
    for name, value in tags.items():
        registry.set_tag(candidate, name, value)
    registry.describe(candidate, candidate.tags | tags)
    outcome = "champion" if verdict.promoted else "not promoted"
    log.info("Version %s is %s: %s.", candidate.number, outcome, verdict.reason)


def _correct(version: Version, digits: Digits) -> NDArray[np.bool_]:
    """Which digits a version reads correctly, bool [n]."""
    with tempfile.TemporaryDirectory() as folder:
        predicted = predict(registry.download(version, Path(folder)), digits).argmax(axis=1)
    correct: NDArray[np.bool_] = predicted == digits.labels.numpy()
    return correct
