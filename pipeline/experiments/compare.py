"""A comparison: recipes and seeds in; one MLflow run with a nested run for each of them, and one table, out.

Finished runs are found in MLflow by their fingerprints and not repeated; interrupted ones resume from checkpoints.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from pipeline import PipelineError, flow
from pipeline.experiments import chart, table
from pipeline.experiments.extras import load_cluster
from pipeline.experiments.table import Row
from pipeline.progress import RunProgress
from pipeline.settings import CompareSettings
from pipeline.tracking import runs
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.operations import KEY
from pipeline.tracking.runs import RecordedRun
from pipeline.training.devices import describe_device
from pipeline.training.run import Run, provenance

log = logging.getLogger(__name__)


class ComparisonError(PipelineError):
    """A run of the comparison failed; the message names its recipe and seed, and the reason."""


def compare(planned: Sequence[Run], settings: CompareSettings, delivery: Delivery) -> list[Row]:
    """Carry out runs, nested in one MLflow run, and log the table and the chart of them all.

    Args:
        planned: at least one, on the same data set and device, those of a recipe one after another.
        settings: where checkpoints are kept, and whether to start over.
        delivery: takes the reports for MLflow.

    Returns:
        A row a recipe, in the order of the recipes.

    Raises:
        ComparisonError: a run failed; those before it are kept.
        KeyboardInterrupt: a signal asked to stop; the state of the current run is saved.
    """
    if settings.cluster:
        load_cluster()  # before anything is reported
    dataset, device = planned[0].dataset, planned[0].device
    recipes = list(dict.fromkeys(run.recipe.name for run in planned))
    mark = _fingerprint(planned)
    known = None if settings.fresh else runs.find_newest(mark)
    if known and known.status == "FINISHED":
        log.info("This comparison is already finished; skipping training (--fresh repeats it).")
        return table.from_csv(runs.read_artifact(known.id, "comparison.csv").decode())
    tags = {"recipes": ", ".join(recipes), **provenance(mark, dataset, device)}
    with runs.start(delivery, "comparison", tags, known.tags.get(KEY) if known else None) as active:
        if active.resumed:
            log.info("Resuming the interrupted comparison.")
        else:
            active.log_parameters(settings.model_dump(mode="json"))
            active.log_dataset(dataset)
        finished = {} if settings.fresh else _find_finished(planned)
        _train_missing(planned, finished, settings, delivery, active.key)
        rows = [
            table.summarise(name, [finished[run.fingerprint].metrics for run in planned if run.recipe.name == name])
            for name in recipes
        ]
        caption = _caption(len(planned) // len(recipes), planned[0], settings)
        comparison = table.to_markdown(rows, caption)
        origin = {f"{run.recipe.name}, seed {run.seed}": finished[run.fingerprint].id for run in planned}
        active.log_files(
            {
                "comparison.csv": table.to_csv(rows),
                "comparison.md": comparison,
                "runs.json": json.dumps(origin, indent=2),
            }
        )
        accuracies = ", ".join(f"{row.recipe} {row.test_accuracy_mean:.2%}" for row in rows)
        active.describe(f"Test accuracy: {accuracies}.\n\n{comparison}")
        active.log_figure(chart.draw_comparison(rows, caption), "pictures/comparison.png")
    log.info("The table and the chart are artifacts of the run comparison.")
    return rows


def _fingerprint(planned: Sequence[Run]) -> str:
    """SHA-256 over what makes two comparisons the same: their runs, and the columns of the table."""
    decides: list[Any] = [table.COLUMNS, [[run.recipe.name, run.seed, run.fingerprint] for run in planned]]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _find_finished(planned: Sequence[Run]) -> dict[str, RecordedRun]:
    """The runs that need no repetition, by fingerprint, whichever command trained them."""
    marks = {run.fingerprint for run in planned}  # two recipes that differ in their names alone share their runs
    found = {mark: runs.find_finished(mark, table.METRICS) for mark in marks}
    finished = {mark: run for mark, run in found.items() if run}
    if finished:
        seeds: dict[str, list[str]] = {}
        for run in planned:
            if run.fingerprint in finished:
                seeds.setdefault(run.recipe.name, []).append(str(run.seed))
        log.info(
            "%d of %d runs are already finished (--fresh repeats them): %s.",
            len(finished), len(found), "; ".join(f"{recipe}, seed {', '.join(done)}" for recipe, done in seeds.items()),
        )  # fmt: skip
    return finished


def _train_missing(
    planned: Sequence[Run],
    finished: dict[str, RecordedRun],
    settings: CompareSettings,
    delivery: Delivery,
    comparison: str,
) -> None:
    """Train the runs that `finished` lacks, and add them to it."""
    missing = {run.fingerprint: run for run in reversed(planned) if run.fingerprint not in finished}
    with RunProgress(len(missing) + len(finished), len(finished)) as progress:
        if settings.cluster:
            delivery.wait()  # for the comparison's run, whose parts the workers' runs are
            jobs = [(run, flow.measure) for run in reversed(missing.values())]
            for run, recorded in load_cluster().carry_out(jobs, planned[0].dataset, settings, comparison):
                # The worker knew the run by its key alone.
                finished[run.fingerprint] = runs.find_by_key(recorded.id) or recorded
                progress.done(_title(run))
            return
        for run in reversed(missing.values()):
            progress.begin(_title(run))
            try:
                finished[run.fingerprint] = flow.measure(run, settings, delivery, progress)
            except PipelineError as error:
                raise ComparisonError(f"{_title(run)}: {error}") from error


def _title(run: Run) -> str:
    return f"{run.recipe.name}, seed {run.seed}"


def _caption(seeds: int, run: Run, settings: CompareSettings) -> str:
    over = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    data = run.dataset.task.dataset
    if run.dataset.is_part:
        data = f"the bundled {run.dataset.subset} of {data}: expect lower accuracy"
    device = describe_device(run.device)
    if settings.cluster:
        device = f"{run.device.type} of a cluster, {settings.cpus_per_run:g} CPUs for each run"
    return f"{over}; {device}; trained on {data}."
