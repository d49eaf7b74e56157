"""A search for a recipe: trials of a space, each an MLflow run, chosen and cut short by Optuna.

Trials are compared on the validation split; none of them reads the test split. Optuna is an extra, so this module is
imported by the command alone. Its journal is a file in the state folder: a table of its own in MLflow's database would
share the table of schema versions with MLflow.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import tomli_w
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipeline import PipelineError, flow
from pipeline.data.dataset import DataSet
from pipeline.experiments.extras import load_cluster
from pipeline.experiments.space import Range, Space, to_toml
from pipeline.progress import RunProgress
from pipeline.recipes import Recipe, RecipeError
from pipeline.settings import ClusterSettings, SearchSettings
from pipeline.tracking import runs
from pipeline.tracking.connection import one_line
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.operations import KEY
from pipeline.tracking.runs import ActiveRun
from pipeline.training.callback import Callback, CutShortError, Epoch
from pipeline.training.loop import TrainingError
from pipeline.training.run import Run, provenance

log = logging.getLogger(__name__)

RANDOM_TRIALS = 5  # before the sampler and the pruner follow what they have seen
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# Attributes of a trial.
NUMBER, PROBLEM = "number", "problem"


class SearchError(PipelineError):
    """No trial succeeded; the message is one sentence with the reason."""


class _Reporter(Callback):
    """Reports the validation accuracy of each epoch to Optuna, which may cut the trial short."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        for epoch in epochs:
            self._trial.report(epoch.validation_accuracy, epoch.number)

    def epoch(self, epoch: Epoch) -> None:
        self._trial.report(epoch.validation_accuracy, epoch.number)
        if self._trial.should_prune():
            raise CutShortError


@dataclass(frozen=True)
class _Work:
    """The work on the run of a trial, in this process or in one of a cluster."""

    journal: Path
    study: str
    id: int
    number: int
    title: str

    def __call__(
        self, run: Run, settings: ClusterSettings, delivery: Delivery, progress: RunProgress | None = None
    ) -> tuple[int, float | None]:
        """Return the trial's number and its accuracy; None if it was cut short or failed."""
        trial = optuna.Trial(_open(self.journal, self.study), self.id)
        try:
            return self.number, flow.try_out(run, settings, delivery, _Reporter(trial), progress)
        except (TrainingError, torch.OutOfMemoryError) as error:
            # It diverges, for example. Optuna learns from trials that were cut short, but not from failed ones.
            log.warning("The trial failed: %s", one_line(error))
            trial.set_user_attr(PROBLEM, one_line(error))
            return self.number, None


def search(
    space: Space, settings: SearchSettings, dataset: DataSet, device: torch.device, delivery: Delivery
) -> Recipe:
    """Try recipes of a space until so many trials are done, and write the best to a file.

    Raises:
        SearchError: no trial could be trained to its end.
        KeyboardInterrupt: a signal asked to stop; the same command continues.
    """
    if settings.cluster:
        load_cluster()  # before anything is reported
    space = space.on(dataset)
    # Other code, data or another device make another search.
    mark = Run(space.base, settings.seed, dataset, device).fingerprint
    mark = hashlib.sha256(json.dumps([asdict(space), mark]).encode()).hexdigest()
    folder = settings.state_dir.resolve() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / f"{space.name}-{mark[:12]}.log"
    if settings.fresh:
        journal.unlink(missing_ok=True)
    study = _open(journal, space.name)
    # The same seed would choose the same first recipes again after an interruption.
    study.sampler = optuna.samplers.TPESampler(
        seed=settings.seed + len(study.trials),
        n_startup_trials=RANDOM_TRIALS,
        constant_liar=settings.cluster is not None,  # no recipe like those that are being tried
    )
    known = None if settings.fresh else runs.find_newest(mark)
    tags = provenance(mark, dataset, device)
    with runs.start(delivery, f"search {space.name}", tags, known.tags.get(KEY) if known else None) as active:
        if not active.resumed:
            active.log_parameters(settings.model_dump(mode="json", exclude={"trials"}))
            active.log_dataset(dataset)
        done = min(len(study.get_trials(states=DONE)), settings.trials)
        jobs = _jobs(study, space, journal, settings, dataset, device)
        with RunProgress(settings.trials, done) as progress:
            if settings.cluster:
                delivery.wait()  # for the search's run, whose parts the workers' runs are
                results = load_cluster().carry_out(jobs, dataset, settings, active.key)
            else:
                results = _one_after_another(jobs, settings, delivery, progress)
            for run, (number, accuracy) in results:
                study.tell(number, accuracy, TrialState.PRUNED if accuracy is None else TrialState.COMPLETE)
                if settings.cluster:
                    progress.done(run.recipe.name)
        best = _report(study, space, active)
    target = settings.to or folder / f"{space.name}.toml"
    target.write_text(tomli_w.dumps(to_toml(best)))
    log.info("The best recipe is in %s: train it with `python -m pipeline train --recipe %s`.", target, target)
    return best


def _open(journal: Path, name: str) -> optuna.Study:
    """The study in a journal, new or known."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS),
        )
    except (OSError, ValueError) as error:  # a line was cut off by a full disk, for example
        raise SearchError(f"{journal} cannot be read ({one_line(error)}): repeat the search with --fresh.") from error


def _jobs(
    study: optuna.Study,
    space: Space,
    journal: Path,
    settings: SearchSettings,
    dataset: DataSet,
    device: torch.device,
) -> Iterator[tuple[Run, _Work]]:
    """The runs of the trials that are left; each recipe is chosen when its run can begin."""
    for cut_off in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(cut_off.number, state=TrialState.FAIL)
        # The same recipe, which resumes from its checkpoint.
        study.enqueue_trial(cut_off.params, {NUMBER: _number(cut_off)})
    distributions = {name: _distribution(of) for name, of in space.fields.items()}
    for _ in range(len(study.get_trials(states=DONE)), settings.trials):
        trial = study.ask(distributions)
        try:
            recipe = space.recipe(trial.params, _number(trial))
        except RecipeError as error:  # a value between those that are allowed
            log.warning("Trial %d has no recipe: %s", trial.number, error)
            trial.set_user_attr(PROBLEM, str(error))
            study.tell(trial, state=TrialState.PRUNED)
            continue
        run = Run(recipe, settings.seed, dataset, device)
        title = ", ".join(f"{name} {value}" for name, value in _values(space, trial.params).items())
        yield run, _Work(journal, study.study_name, trial._trial_id, trial.number, title)


def _one_after_another(
    jobs: Iterable[tuple[Run, _Work]], settings: SearchSettings, delivery: Delivery, progress: RunProgress
) -> Iterator[tuple[Run, tuple[int, float | None]]]:
    for run, work in jobs:
        progress.begin(work.title)
        yield run, work(run, settings, delivery, progress)


def _number(trial: optuna.Trial | FrozenTrial) -> int:
    """The number in the name of a trial's recipe: the first one, if the trial was interrupted."""
    return int(trial.user_attrs.get(NUMBER, trial.number))


def _distribution(of: Range | tuple[object, ...]) -> BaseDistribution:
    if not isinstance(of, Range):
        return CategoricalDistribution(tuple(range(len(of))))  # their places: a value may be a list
    if of.is_whole:
        return IntDistribution(int(of.low), int(of.high), log=of.log)
    return FloatDistribution(float(of.low), float(of.high), log=of.log)


def _values(space: Space, chosen: dict[str, float]) -> dict[str, object]:
    return {
        name: f"{place:.4g}" if isinstance(of := space.fields[name], Range) else of[int(place)]
        for name, place in chosen.items()
    }


def _end(trial: FrozenTrial) -> str:
    if PROBLEM in trial.user_attrs:
        return "failed"
    return "cut short" if trial.state == TrialState.PRUNED else ""


def _report(study: optuna.Study, space: Space, active: ActiveRun) -> Recipe:
    """Log the table of trials, and return the best recipe."""
    trials = study.get_trials(states=DONE)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        reason = next((trial.user_attrs[PROBLEM] for trial in trials if PROBLEM in trial.user_attrs), "cut short")
        raise SearchError(
            f"No trial was trained to its end ({reason.rstrip('.')}): change the space, or raise --trials."
        )
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    heading = ["trial", *space.fields, "epochs", "validation %", "end"]
    rows = [
        [
            str(_number(trial)), *map(str, _values(space, trial.params).values()), str(len(trial.intermediate_values)),
            f"{100 * (trial.value or 0.0):.2f}", _end(trial),
        ]
        for trial in sorted(trials, key=lambda trial: -(trial.value or 0.0))
    ]  # fmt: skip
    lines = ["| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *rows)]
    recipe = space.recipe(best.params, _number(best))
    chosen = ", ".join(f"{name} {value}" for name, value in _values(space, best.params).items())
    summary = (
        f"Best of {len(trials)} trials: {100 * (best.value or 0.0):.2f} % of the validation pictures with {chosen}."
    )
    log.info("%s", summary)
    active.log_metrics({"best_validation_accuracy": best.value or 0.0, "trials": len(trials)})
    active.log_files({"trials.md": "\n".join(lines), "best.toml": tomli_w.dumps(to_toml(recipe))})
    active.describe("\n".join([summary, "", *lines]))
    return recipe
