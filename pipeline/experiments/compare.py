"""A comparison: recipes and seeds in; out, one MLflow run with a run for each of them nested in it, and one table.

What is finished is found in MLflow by its fingerprint and not repeated; what was cut off goes on from its checkpoint.
"""

import hashlib
import json
import logging
from collections.abc import Sequence

import mlflow
import torch
from mlflow.entities import Run

from pipeline import PipelineError, flow
from pipeline.data.dataset import DataSet
from pipeline.experiments import chart as leaderboard
from pipeline.experiments import table
from pipeline.experiments.table import Row
from pipeline.progress import RunProgress
from pipeline.recipes import Recipe
from pipeline.settings import CompareSettings
from pipeline.tracking import runs as tracking
from pipeline.training import fingerprint as provenance
from pipeline.training.devices import describe_device

log = logging.getLogger(__name__)


class ComparisonError(PipelineError):
    """A run of the comparison failed; the message names its recipe and seed, and says why."""


def compare(recipes: Sequence[Recipe], settings: CompareSettings, dataset: DataSet, device: torch.device) -> list[Row]:
    """Train each recipe with each seed, in runs nested in one run, and log the table and the picture of them all.

    Returns:
        A row a recipe, in the order of the recipes.

    Raises:
        ComparisonError: a run failed; those before it are kept.
        KeyboardInterrupt: a signal asked to stop; where the run under way stands is kept.
    """
    # two recipes that differ in nothing but their names share their runs
    plan = {
        (recipe.name, seed): provenance.fingerprint(recipe, seed, device, dataset)
        for recipe in recipes
        for seed in range(1, settings.seeds + 1)
    }
    mark = _fingerprint(plan)
    known = None if settings.fresh else tracking.find_newest(mark)
    if known and known.info.status == "FINISHED":
        log.info("This comparison is finished: nothing is trained again (--fresh does).")
        return table.from_csv(mlflow.artifacts.load_text(f"{known.info.artifact_uri}/comparison.csv"))
    tags = {"recipes": ", ".join(recipe.name for recipe in recipes), **flow.tags(mark, dataset, device)}
    resumed = known.info.run_id if known else None
    with tracking.run("comparison", tags, resumed) as run_id:
        if run_id == resumed:
            log.info("The comparison that was begun before goes on.")
        else:
            mlflow.log_params(settings.model_dump(mode="json"))
            tracking.log_dataset(dataset)
        finished = {} if settings.fresh else _find_finished(plan)
        _train_missing(recipes, plan, finished, settings, dataset, device)
        rows = [
            table.summarise(
                recipe.name,
                [finished[plan[recipe.name, seed]].data.metrics for seed in range(1, settings.seeds + 1)],
            )
            for recipe in recipes
        ]
        caption = _caption(settings.seeds, dataset, device)
        mlflow.log_text(table.to_csv(rows), "comparison.csv")
        mlflow.log_text(table.to_markdown(rows, caption), "comparison.md")
        mlflow.log_dict(
            {f"{recipe}, seed {seed}": finished[of_run].info.run_id for (recipe, seed), of_run in plan.items()},
            "runs.json",
        )
        mlflow.log_figure(leaderboard.draw_comparison(rows, caption), "pictures/comparison.png")
    log.info("The table and the picture are in MLflow, run %s (comparison).", run_id)
    return rows


def _fingerprint(plan: dict[tuple[str, int], str]) -> str:
    """What makes two comparisons the same: their runs, and the columns of the table."""
    decides = [table.COLUMNS, [[*of, mark] for of, mark in plan.items()]]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _find_finished(plan: dict[tuple[str, int], str]) -> dict[str, Run]:
    """The runs that need no repetition, by their fingerprints, whoever trained them."""
    found = {mark: tracking.find_finished(mark, table.METRICS) for mark in set(plan.values())}
    finished = {mark: run for mark, run in found.items() if run}
    if finished:
        seeds: dict[str, list[str]] = {}
        for (recipe, seed), mark in plan.items():
            if mark in finished:
                seeds.setdefault(recipe, []).append(str(seed))
        log.info(
            "%d of %d runs are finished and not repeated (--fresh does): %s.",
            len(finished), len(found), "; ".join(f"{recipe}, seed {', '.join(done)}" for recipe, done in seeds.items()),
        )  # fmt: skip
    return finished


def _train_missing(
    recipes: Sequence[Recipe],
    plan: dict[tuple[str, int], str],
    finished: dict[str, Run],
    settings: CompareSettings,
    dataset: DataSet,
    device: torch.device,
) -> None:
    """Train what `finished` lacks, and add it."""
    of_name = {recipe.name: recipe for recipe in recipes}
    with RunProgress(len(set(plan.values())), len(finished)) as progress:
        for (name, seed), mark in plan.items():
            if mark in finished:
                continue
            progress.begin(f"{name}, seed {seed}")
            try:
                flow.measure(of_name[name], seed, settings, dataset, device, progress)
            except PipelineError as error:
                raise ComparisonError(f"{name}, seed {seed}: {error}") from error
            done = tracking.find_finished(mark, table.METRICS)
            assert done
            finished[mark] = done


def _caption(seeds: int, dataset: DataSet, device: torch.device) -> str:
    over = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    trained_on = "the full MNIST" if dataset.name == "full" else "the bundled tenth of MNIST: expect lower accuracy"
    return f"{over}; {describe_device(device)}; trained on {trained_on}."
