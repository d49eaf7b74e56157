"""The gate: whether a version becomes champion, the recorded reason, and the rollback.

A version is judged as it will be served: by ONNX Runtime, from the registered file, on the validation split.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.data.dataset import Samples
from pipeline.data.names import flag_of, model_of
from pipeline.export import predict
from pipeline.form import Form, describe, read_form
from pipeline.tracking import registry
from pipeline.tracking.registry import CHAMPION, PREVIOUS, DamagedFileError, RegistryError, Version

log = logging.getLogger(__name__)

# Tags of a version: what the gate decided, set when it is carried out; and the number of the champion that it replaced.
PROMOTED, REPLACED = "promoted", "replaced"


@dataclass(frozen=True)
class Gate:
    """The requirements for a champion.

    Attributes:
        minimum_accuracy: share of the validation split that must be classified correctly, 0 to 1.
        significance: p-value below which a candidate counts as worse than the champion, 0 to 1.
    """

    minimum_accuracy: float
    significance: float


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate becomes champion, and the reason as a clause."""

    promoted: bool
    reason: str


def consider(candidate: Version, validation: Samples, gate: Gate, explicit: bool = False) -> Verdict:
    """Judge a version against the champion, move the aliases if it passes, and record the verdict in its tags.

    Args:
        candidate: the version to judge.
        validation: the samples that both are judged on.
        gate: the requirements.
        explicit: a user named this version. It is judged by the minimum alone if the champion's file is damaged, or
            if the champion has other classes. The same training, repeated, always may replace its damaged result.

    Raises:
        RegistryError: the champion's file is damaged, so that nothing can be compared with it.
    """
    while True:
        champion = registry.by_alias(CHAMPION, candidate.model)
        if champion and champion.number == candidate.number:
            return Verdict(True, champion.tags.get("verdict", "it is champion already"))
        verdict, former = _compare(candidate, champion, validation, gate, explicit)
        now = registry.by_alias(CHAMPION, candidate.model)
        if (now and now.number) == (champion and champion.number):
            break
        log.info("The champion has changed meanwhile: judging version %s again.", candidate.number)
    _record(candidate, verdict, former)
    return verdict


def _compare(
    candidate: Version, champion: Version | None, validation: Samples, gate: Gate, explicit: bool
) -> tuple[Verdict, Version | None]:
    """The verdict, and the version to go back to after a promotion."""
    verdict = may_replace(candidate, champion)
    if verdict:
        return verdict, champion
    correct, form = _correct(candidate, validation)
    if form.shape != validation.shape:
        taken, there = describe(form.shape), describe(validation.shape)
        return Verdict(False, f"it takes {taken}, and the pictures of the data set have {there}"), champion
    if champion and _is_foreign(champion):
        foreign = f"the champion, version {champion.number}, was trained on {champion.dataset}"
        return judge(correct, None, gate, foreign), None
    try:
        former, former_form = _correct(champion, validation) if champion else (None, form)
    except DamagedFileError as damage:
        assert champion
        if not explicit and champion.tags.get("fingerprint") != candidate.tags.get("fingerprint", ""):
            raise RegistryError(
                f"Version {candidate.number} cannot be compared with the champion, because {damage.what}: "
                f"go back by `rollback{flag_of(candidate.model)}`, or replace it by `promote{flag_of(candidate.model)} "
                f"--version {candidate.number}`."
            ) from damage
        verdict = judge(correct, None, gate, f"{damage.what}, so it could not be compared with the champion")
        # A damaged version is nothing to go back to.
        return verdict, registry.by_alias(PREVIOUS, candidate.model)
    if former_form == form:
        return judge(correct, former, gate), champion
    alone = f"it cannot be compared with the champion: {form.difference(former_form)}"
    command = f"promote{flag_of(candidate.model)} --version {candidate.number}"
    refused = Verdict(False, f"{alone}; `{command}` replaces the champion all the same")
    return judge(correct, None, gate, alone) if explicit else refused, champion


def _is_foreign(version: Version) -> bool:
    """Whether a version was trained on another data set than that of its registered model."""
    return model_of(version.dataset) != version.model


def judge(
    correct: NDArray[np.bool_],
    champion_correct: NDArray[np.bool_] | None,
    gate: Gate,
    unrivalled: str = "there was no champion",
) -> Verdict:
    """Compare a candidate with the minimum and with the champion.

    The candidate must reach the minimum and must not lose to the champion. It loses if, among the samples that exactly
    one of the two classifies correctly, its share is so small that an equally good model would do as badly with a
    probability below `gate.significance`.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions" (1947), in its
    exact, one-sided form.

    Args:
        correct: which validation samples the candidate classifies correctly, bool [n].
        champion_correct: the same for the champion, on the same samples; None if there is no champion.
        gate: the requirements.
        unrivalled: why there is no champion to compare with, as a clause.
    """
    accuracy = float(correct.mean())
    if accuracy < gate.minimum_accuracy:
        return Verdict(
            False,
            f"it classifies {accuracy:.2%} of the validation pictures correctly, and {gate.minimum_accuracy:.2%} are "
            "required",
        )
    if champion_correct is None:
        return Verdict(True, f"it classifies {accuracy:.2%} of the validation pictures correctly, and {unrivalled}")
    won, lost = int((correct & ~champion_correct).sum()), int((champion_correct & ~correct).sum())
    p = binomtest(won, won + lost, alternative="less").pvalue if won + lost else 1.0
    compared = (
        f"{accuracy:.2%} against the champion's {champion_correct.mean():.2%} of the validation pictures "
        f"({won} won, {lost} lost, p = {p:.3f})"
    )
    if p < gate.significance:
        return Verdict(False, f"it is worse than the champion: {compared}")
    return Verdict(True, f"it does not lose to the champion: {compared}")


def may_replace(candidate: Version, champion: Version | None) -> Verdict | None:
    """The verdict that needs no pictures: a version of another data set, or of a subset, takes nobody's place."""
    if _is_foreign(candidate):
        return Verdict(False, f"it was trained on {candidate.dataset}, which is not the data set of {candidate.model}")
    if champion and champion.subset == "full" and candidate.subset == "tenth" and not _is_foreign(champion):
        return Verdict(False, "it was trained on the bundled tenth, and the champion on the full set")
    return None


def is_judged(version: Version) -> bool:
    """Whether the gate's verdict on a version is recorded, and carried out."""
    return version.tags.keys() >= {"verdict", PROMOTED}


def require_champion(considered: Version) -> None:
    """Log which version is champion.

    Raises:
        RegistryError: there is none, because the gate refused the version under consideration, or its file is damaged.
    """
    champion = registry.by_alias(CHAMPION, considered.model)
    if champion is None:
        reason = registry.get(considered.number, considered.model).tags.get("verdict")
        raise RegistryError(f"There is no champion to serve: version {considered.number} was not promoted: {reason}.")
    try:
        registry.check(champion)
    except DamagedFileError as damage:
        flag = flag_of(considered.model)
        raise RegistryError(
            f"The champion cannot be served, because {damage.what}: go back by `rollback{flag}`, replace it by "
            f"`promote{flag} --version`, or restore a backup."
        ) from damage
    log.info(
        "Champion: version %s of %s (%s, %.2f %% of the test pictures).",
        champion.number, champion.model, champion.tags.get("recipe"),
        100 * float(champion.tags.get("test_accuracy", "nan")),
    )  # fmt: skip


def rollback(model: str, confirmed: bool) -> tuple[Version, Version | None]:
    """Swap `champion` and `previous`; a second rollback undoes the first.

    If the champion was deleted, `previous` takes its place. A rollback that was cut off is completed.

    Args:
        model: name of the registered model.
        confirmed: whether a model of the subset may take the place of one of the full set.

    Returns:
        The new champion and the former one, if it still exists.

    Raises:
        RegistryError: there is no previous version, its file is damaged, or it needs confirmation.
    """
    completed = finish(model)
    champion, previous = registry.by_alias(CHAMPION, model), registry.by_alias(PREVIOUS, model)
    if completed and champion:
        return champion, previous
    if previous is None:
        raise RegistryError(
            f"{model} has no previous version to go back to; see `python -m pipeline status{flag_of(model)}`."
        )
    refusal = may_replace(previous, champion)
    if refusal and champion and not confirmed:
        raise RegistryError(
            f"Version {previous.number} was trained on the bundled tenth, and the champion, version {champion.number}, "
            "on the full set: add --yes to serve it all the same."
        )
    registry.check(previous)
    _enthrone(previous, champion)
    return previous, champion


def finish(model: str) -> bool:
    """Complete a promotion or a rollback that was cut off after the champion had changed.

    Returns:
        Whether it was a rollback.
    """
    champion, previous = registry.by_alias(CHAMPION, model), registry.by_alias(PREVIOUS, model)
    if champion is None:
        return False
    cut_promotion = "verdict" in champion.tags and PROMOTED not in champion.tags
    cut_rollback = previous is not None and previous.number == champion.number
    if not cut_promotion and not cut_rollback:
        return False
    former = registry.find_number(champion.tags.get(REPLACED, ""), model)
    _follow_champion(champion, former)
    if cut_promotion:
        _record_outcome(champion, {PROMOTED: "true"})
    log.info("What made version %s champion was cut off before its end: it is complete now.", champion.number)
    return cut_rollback and former is not None


def _record(candidate: Version, verdict: Verdict, former: Version | None) -> None:
    """Write the verdict into the candidate's tags and, if it is promoted, move the aliases.

    The alias `champion` is the commit. Until then, another `train` judges the version again, since the tag `promoted`
    is missing; after it, `finish` completes the rest. So a champion never bears the verdict of a refusal.
    """
    if PROMOTED in candidate.tags:
        registry.delete_tag(candidate, PROMOTED)
    registry.set_tag(candidate, "verdict", verdict.reason)
    if verdict.promoted:
        _enthrone(candidate, former)
    outcome = {PROMOTED: str(verdict.promoted).lower()}
    _record_outcome(candidate, {"verdict": verdict.reason} | outcome)
    called = "champion" if verdict.promoted else "not promoted"
    log.info("Version %s is %s: %s.", candidate.number, called, verdict.reason)


def _record_outcome(version: Version, tags: dict[str, str]) -> None:
    registry.describe(version, version.tags | tags)
    registry.set_tag(version, PROMOTED, tags[PROMOTED])  # last: with it, all is done


def _enthrone(version: Version, former: Version | None) -> None:
    """Make a version champion, and the former champion `previous`."""
    registry.set_tag(version, REPLACED, str(former.number) if former else "none")  # for `finish`
    registry.set_alias(CHAMPION, version)
    _follow_champion(version, former)


def _follow_champion(champion: Version, former: Version | None) -> None:
    """Make the alias `previous` fit to a new champion: the former one, but never the champion itself."""
    previous = registry.by_alias(PREVIOUS, champion.model)
    if former and former.number != champion.number:
        registry.set_alias(PREVIOUS, former)
    elif previous and previous.number == champion.number:
        registry.delete_alias(PREVIOUS, champion.model)


def _correct(version: Version, samples: Samples) -> tuple[NDArray[np.bool_], Form]:
    """Which samples a version classifies correctly, bool [n], and its form; none if the shape is another one."""
    with tempfile.TemporaryDirectory() as folder:
        file = registry.download(version, Path(folder))
        form = read_form(file)
        if form.shape != samples.shape:
            return np.zeros(len(samples), bool), form
        predicted = predict(file, samples).argmax(axis=1)
    correct: NDArray[np.bool_] = predicted == samples.labels.numpy()
    return correct, form
