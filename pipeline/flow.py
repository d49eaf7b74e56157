"""One run, from the pictures to a registered version: train, evaluate, draw, export, prove, register."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import evaluation, export
from pipeline.data.dataset import Samples
from pipeline.evaluation import Evaluation
from pipeline.networks import count_macs, count_parameters
from pipeline.progress import EpochProgress, RunProgress
from pipeline.recipes import RECIPES
from pipeline.report import page
from pipeline.settings import RunSettings
from pipeline.tracking import runs
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.descriptions import describe_run
from pipeline.tracking.runs import ActiveRun, EpochLogger, RecordedRun
from pipeline.tracking.turns import turn
from pipeline.training.callback import Callback, CutShortError
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.fingerprint import code_digest
from pipeline.training.loop import Trained, train
from pipeline.training.run import Run

log = logging.getLogger(__name__)

NOT_OF_ONE_RUN = {"recipes", "seeds", "cluster", "cpus_per_run", "gpus_per_run", "space", "trials", "to"}  # of several


@dataclass(frozen=True)
class Result:
    """A trained network and its evaluation.

    Attributes:
        trained: the network and its history.
        validation: its answers on the validation split.
        temperature: fitted on the validation split.
        test_samples: the test split.
        test: its answers on the test split.
    """

    trained: Trained
    validation: Evaluation
    temperature: float
    test_samples: Samples
    test: Evaluation


def train_and_register(run: Run, settings: RunSettings, delivery: Delivery) -> str:
    """Train in an MLflow run, export the network, prove the file equal to it, and register the file.

    MLflow registers it when `delivery` ends.

    If no run of the dense network on the same data is finished, it is trained first: every report shows the
    improvement over it.

    Returns:
        The key of the run.

    Raises:
        TrainingError: training cannot continue.
        ParityError: the exported file differs from the trained network.
    """
    dense_accuracy = runs.find_dense_accuracy(run.dataset.digest)
    if run.recipe.name != "dense" and dense_accuracy is None:
        log.info("Training the dense network first, as the baseline.")
        dense_accuracy = measure(replace(run, chosen=RECIPES["dense"]), settings, delivery).metrics["test_accuracy"]
    with _tracked(run, settings, delivery) as (active, checkpoint):
        result = _train_and_evaluate(run, active, checkpoint)
        if run.recipe.name != "dense" and dense_accuracy is not None:
            gain = result.test.accuracy() - dense_accuracy
            active.log_metrics({"test_accuracy_over_dense": gain})
            log.info("Improvement over the dense network: %.2f points.", 100 * gain)
        active.log_predictions(result.test_samples, result.test.probabilities(result.temperature))
        _log_report(run, result, active)
        # Another process may have registered the same training meanwhile.
        _register(run, result, active, None if settings.fresh else run.fingerprint)
    checkpoint.remove()
    return active.key


def measure(run: Run, settings: RunSettings, delivery: Delivery, progress: RunProgress | None = None) -> RecordedRun:
    """Train in an MLflow run and report as `train_and_register` does, without exporting or registering anything.

    Args:
        run: what to train.
        settings: where checkpoints are kept, and whether to start over.
        delivery: takes the reports for MLflow.
        progress: of the runs that this is one of; shown above its epochs.

    Raises:
        TrainingError: training cannot continue.
    """
    with _tracked(run, settings, delivery) as (active, checkpoint):
        result = _train_and_evaluate(run, active, checkpoint, progress)
        _log_report(run, result, active)
    checkpoint.remove()
    return active.recorded()


def try_out(
    run: Run, settings: RunSettings, delivery: Delivery, watcher: Callback, progress: RunProgress | None = None
) -> float | None:
    """Train in an MLflow run, without the test split and a report.

    Args:
        run: what to train.
        settings: where checkpoints are kept, and whether to start over.
        delivery: takes the reports for MLflow.
        watcher: may raise `CutShortError`.
        progress: of the runs that this is one of.

    Returns:
        The accuracy on the validation split, or None if the training was cut short.

    Raises:
        TrainingError: training cannot continue.
    """
    accuracy = None
    with _tracked(run, settings, delivery) as (active, checkpoint):
        try:
            with EpochProgress(run.recipe.name, run.epochs, len(run.dataset.train), run.device, progress) as epochs:
                trained = train(run, [epochs, EpochLogger(active), watcher], checkpoint)
        except CutShortError:
            active.describe("Cut short, because other trials were more accurate after as many epochs.")
        else:
            accuracy = evaluation.evaluate(trained.network, run.dataset.validation).accuracy()
            parameters = count_parameters(trained.network)
            active.log_metrics({"final_validation_accuracy": accuracy, "parameters": parameters})
    checkpoint.remove()
    return accuracy


def checkpoint_of(run: Run, state_dir: Path) -> Path:
    """The file of a run's checkpoint."""
    return state_dir / "checkpoints" / f"{run.recipe.name}-{run.fingerprint[:12]}.pt"


@contextmanager
def _tracked(run: Run, settings: RunSettings, delivery: Delivery) -> Iterator[tuple[ActiveRun, Checkpoint]]:
    """An MLflow run, new or resumed, and its checkpoint."""
    file = checkpoint_of(run, settings.state_dir)
    # A worker of a cluster that was given up may still run: two must never continue one run.
    with turn(file.parent, file.stem):
        if settings.fresh:
            file.unlink(missing_ok=True)
        checkpoint = Checkpoint(file, run.fingerprint)
        with runs.start(delivery, run.name, run.tags, checkpoint.run_id) as active:
            if not active.resumed:
                chosen = settings.model_dump(mode="json", exclude=NOT_OF_ONE_RUN)
                active.log_parameters(chosen | {"recipe": run.recipe.name, "seed": run.seed})
                active.log_recipe(run.recipe)
                active.log_dataset(run.dataset)
            if checkpoint.run_id != active.key:
                checkpoint.run_id = active.key
                checkpoint.save(checkpoint.state)  # before the first step: a run that is killed in it is resumed, too
            yield active, checkpoint


def _train_and_evaluate(
    run: Run, active: ActiveRun, checkpoint: Checkpoint, progress: RunProgress | None = None
) -> Result:
    images = len(run.dataset.train)
    with EpochProgress(run.recipe.name, run.epochs, images, run.device, progress) as epochs:
        trained = train(run, [epochs, EpochLogger(active)], checkpoint)
    validation = evaluation.evaluate(trained.network, run.dataset.validation)
    temperature = evaluation.fit_temperature(validation)
    samples = run.dataset.read_test()  # the only reading, after every choice has been made
    test = evaluation.evaluate(trained.network, samples)
    active.log_metrics(
        {
            "parameters": count_parameters(trained.network),
            "macs": count_macs(trained.network),
            "epochs": run.epochs,
            "training_seconds": trained.seconds,
            "training_images_per_second": run.epochs * images / trained.seconds,
            "temperature": temperature,
            "final_validation_accuracy": validation.accuracy(),
            "test_accuracy": test.accuracy(),
            "test_loss": test.loss(temperature),
            "test_calibration_error_before": test.calibration_error(),
            "test_calibration_error": test.calibration_error(temperature),
        }
    )
    log.info(
        "%s: test accuracy %.2f %% on %s pictures (validation %.2f %%), trained in %.0f s.",
        run.recipe.name, 100 * test.accuracy(), f"{len(samples):,}", 100 * validation.accuracy(), trained.seconds,
    )  # fmt: skip
    return Result(trained, validation, temperature, samples, test)


def _log_report(run: Run, result: Result, active: ActiveRun) -> None:
    """Log pictures, report and description of a run: last, since they show the metrics logged until then."""
    started = time.perf_counter()
    pictures = page.draw(run.recipe, result.trained, result.test_samples, result.test, result.temperature)
    recorded = active.recorded()
    title = f"{recorded.name}: test accuracy {result.test.accuracy():.2%}"
    html = page.write(title, run.recipe.about, recorded.tags.get("warning", ""), page.describe(recorded), pictures)
    active.log_files({f"pictures/{picture.name}.png": picture.png for picture in pictures} | {"report.html": html})
    report = active.page_of("report.html")
    active.describe(describe_run(run.recipe.about, recorded.metrics, recorded.tags, report))
    size = len(html) + sum(len(picture.png) for picture in pictures)
    log.info(
        "%d pictures and report.html, %.1f MB, drawn and logged in %.1f s.",
        len(pictures), size / 1e6, time.perf_counter() - started,
    )  # fmt: skip


def _register(run: Run, result: Result, active: ActiveRun, unless: str | None) -> None:
    metadata = {
        "run_id": active.key,
        "recipe": run.recipe.name,
        "subset": run.dataset.subset,
        "data_source": run.dataset.source,
        "data_digest": run.dataset.digest,
        "code_digest": code_digest(),
        "fingerprint": run.fingerprint,
        "validation_accuracy": f"{result.validation.accuracy():.6f}",
        "test_accuracy": f"{result.test.accuracy():.6f}",
    }
    checked = [run.dataset.validation, result.test_samples]
    golden = export.choose_golden(run.dataset.validation)
    log.info("Exporting to ONNX and comparing the file with PyTorch on %s pictures.", f"{sum(map(len, checked)):,}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export.export(result.trained.network, result.temperature, metadata, golden, checked, file)
        active.register(file, golden.images[:2].numpy(), unless)
