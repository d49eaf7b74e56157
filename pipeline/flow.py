"""One run, from the digits to a registered version: train, look inside, export, prove, and tell MLflow all of it."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import torch
from mlflow.entities.model_registry import ModelVersion
from torch import Tensor

from pipeline import evaluation, export
from pipeline.data.dataset import DataSet, Digits
from pipeline.evaluation import Evaluation
from pipeline.networks import Network, count_macs, count_parameters
from pipeline.progress import EpochProgress, RunProgress
from pipeline.recipes import RECIPES, Recipe
from pipeline.report import page as report
from pipeline.settings import RunSettings, TrainSettings
from pipeline.tracking import registry
from pipeline.tracking import runs as tracking
from pipeline.training import fingerprint as provenance
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.devices import choose_precision, describe_device
from pipeline.training.loop import Epoch, epochs_of, train

log = logging.getLogger(__name__)


@dataclass
class History:
    """A reporter that keeps the epochs."""

    epochs: list[Epoch] = field(default_factory=list)

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Keep what was before."""
        self.epochs = list(epochs)

    def step(self, images: int, loss: Tensor) -> None:
        """Nothing: only epochs are kept."""

    def epoch(self, epoch: Epoch) -> None:
        """Keep it."""
        self.epochs.append(epoch)


@dataclass(frozen=True)
class Learned:
    """What training brought, and how good it is."""

    network: Network
    epochs: list[Epoch]
    growth: dict[int, Tensor]  # the first layer's filters over the epochs, as `train` gives them
    validation: Evaluation
    temperature: float
    digits: Digits  # of the test split
    test: Evaluation


def run(recipe: Recipe, settings: TrainSettings, dataset: DataSet, device: torch.device) -> ModelVersion:
    """Train the recipe in an MLflow run of its own, export the network, prove the file equal, and register it.

    The dense network is trained before any other if no run of it is there yet: every report shows the improvement.

    Raises:
        TrainingError: training cannot go on.
        ParityError: the exported file is not the trained network.
    """
    dense_accuracy = tracking.find_dense_accuracy(dataset.digest)
    if recipe.name != "dense" and dense_accuracy is None:
        log.info("Training the dense network first, to compare with.")
        dense_accuracy = measure(RECIPES["dense"], settings.seed, settings, dataset, device).test.accuracy()
    with _tracked(recipe, settings.seed, settings, dataset, device) as checkpoint:
        learned = _learn(recipe, settings.seed, dataset, device, checkpoint)
        if recipe.name != "dense" and dense_accuracy is not None:
            gain = learned.test.accuracy() - dense_accuracy
            mlflow.log_metric("test_accuracy_over_dense", gain)
            log.info("That is %.2f points more than the dense network.", 100 * gain)
        tracking.log_predictions(learned.digits, learned.test.probabilities(learned.temperature))
        _log_report(recipe, learned, str(checkpoint.run_id))
        version = _register(recipe, settings, dataset, device, learned, str(checkpoint.run_id))
    checkpoint.remove()
    return version


def measure(
    recipe: Recipe,
    seed: int,
    settings: RunSettings,
    dataset: DataSet,
    device: torch.device,
    runs: RunProgress | None = None,
) -> Learned:
    """Train the recipe in an MLflow run of its own, and report: as `run` does, but nothing is exported or registered.

    Args:
        recipe: what to train.
        seed: decides weights, order and augmentation.
        settings: where checkpoints are kept, and whether one is gone on from.
        dataset: what to train on.
        device: where to train.
        runs: the runs that this is one of, if it is; shown above its epochs.

    Raises:
        TrainingError: training cannot go on.
    """
    with _tracked(recipe, seed, settings, dataset, device) as checkpoint:
        learned = _learn(recipe, seed, dataset, device, checkpoint, runs)
        _log_report(recipe, learned, str(checkpoint.run_id))
    checkpoint.remove()
    return learned


def tags(fingerprint: str, dataset: DataSet, device: torch.device) -> dict[str, str]:
    """Where a run's result comes from."""
    found = {
        "data": dataset.name,
        "data_source": dataset.source,
        "data_digest": dataset.digest,
        "device": describe_device(device),
        "fingerprint": fingerprint,
        "git_commit": provenance.git_commit(),
        **{f"version.{name}": number for name, number in provenance.versions().items()},
    }
    if dataset.name == "tenth":
        found["warning"] = "Trained on the bundled tenth of MNIST: expect lower accuracy."
    return found


@contextmanager
def _tracked(
    recipe: Recipe, seed: int, settings: RunSettings, dataset: DataSet, device: torch.device
) -> Iterator[Checkpoint]:
    """An MLflow run, a new one or one that was cut off, and its checkpoint."""
    mark = provenance.fingerprint(recipe, seed, device, dataset)
    file = settings.state_dir / "checkpoints" / f"{recipe.name}-{mark[:12]}.pt"
    if settings.fresh:
        file.unlink(missing_ok=True)
    checkpoint = Checkpoint(file, mark)
    precision = str(choose_precision(device, recipe.mixed_precision)).removeprefix("torch.")
    described = {"recipe": recipe.name, "precision": precision, **tags(mark, dataset, device)}
    with tracking.run(f"{recipe.name}-{seed}", described, checkpoint.run_id) as run_id:
        if run_id != checkpoint.run_id:
            chosen = settings.model_dump(mode="json", exclude={"recipes", "seeds"})
            tracking.log_parameters(recipe, chosen | {"recipe": recipe.name, "seed": seed})
            tracking.log_dataset(dataset)
        checkpoint.run_id = run_id
        yield checkpoint


def _learn(
    recipe: Recipe,
    seed: int,
    dataset: DataSet,
    device: torch.device,
    checkpoint: Checkpoint,
    runs: RunProgress | None = None,
) -> Learned:
    epochs = epochs_of(recipe, tenth=dataset.name == "tenth")
    history, growth = History(), dict[int, Tensor]()
    with EpochProgress(recipe.name, epochs, len(dataset.train), device, runs) as progress:
        network = train(
            recipe, epochs, dataset.train, dataset.validation, device, seed,
            [progress, history, tracking.RunReporter(str(checkpoint.run_id))], checkpoint, growth=growth,
        )  # fmt: skip
    seconds = sum(epoch.seconds for epoch in history.epochs)  # also of those before a run was cut off
    validation = evaluation.evaluate(network, dataset.validation)
    temperature = evaluation.fit_temperature(validation)
    digits = dataset.read_test()  # the one time, after every choice has been made
    test = evaluation.evaluate(network, digits)
    mlflow.log_metrics(
        {
            "parameters": count_parameters(network),
            "macs": count_macs(network),
            "epochs": epochs,
            "training_seconds": seconds,
            "training_images_per_second": epochs * len(dataset.train) / seconds,
            "temperature": temperature,
            "final_validation_accuracy": validation.accuracy(),
            "test_accuracy": test.accuracy(),
            "test_loss": test.loss(temperature),
            "test_calibration_error_before": test.calibration_error(),
            "test_calibration_error": test.calibration_error(temperature),
        }
    )
    log.info(
        "%s: %.2f %% of %s test digits right (validation %.2f %%), trained in %.0f s.",
        recipe.name, 100 * test.accuracy(), f"{len(digits):,}", 100 * validation.accuracy(), seconds,
    )  # fmt: skip
    return Learned(network, history.epochs, growth, validation, temperature, digits, test)


def _log_report(recipe: Recipe, learned: Learned, run_id: str) -> None:
    """Log the pictures of a run and its report: last, since the report tells the numbers that MLflow has by then."""
    started = time.perf_counter()
    drawn = report.draw(
        recipe, learned.network, learned.epochs, learned.growth, learned.digits, learned.test, learned.temperature
    )
    run = mlflow.get_run(run_id)
    title = f"{run.info.run_name}: {learned.test.accuracy():.2%} of the test digits right"
    page = report.write(title, recipe.about, run.data.tags.get("warning", ""), report.describe(run), drawn)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        for picture in drawn:
            (pictures / f"{picture.name}.png").write_bytes(picture.png)
        (Path(folder) / "report.html").write_text(page, encoding="utf-8")
        mlflow.log_artifacts(folder)
    size = len(page) + sum(len(picture.png) for picture in drawn)
    log.info(
        "%d pictures and report.html, %.1f MB, drawn and logged in %.1f s.",
        len(drawn), size / 1e6, time.perf_counter() - started,
    )  # fmt: skip


def _register(
    recipe: Recipe,
    settings: TrainSettings,
    dataset: DataSet,
    device: torch.device,
    learned: Learned,
    run_id: str,
) -> ModelVersion:
    metadata = {
        "run_id": run_id,
        "recipe": recipe.name,
        "data": dataset.name,
        "data_source": dataset.source,
        "data_digest": dataset.digest,
        "code_digest": provenance.code_digest(),
        "fingerprint": provenance.fingerprint(recipe, settings.seed, device, dataset),
        "validation_accuracy": f"{learned.validation.accuracy():.6f}",
        "test_accuracy": f"{learned.test.accuracy():.6f}",
    }
    checked = [dataset.validation, learned.digits]
    golden = export.choose_golden(dataset.validation)
    log.info("Exporting to ONNX, and comparing the file with PyTorch on %s digits.", f"{sum(map(len, checked)):,}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export.export(learned.network, learned.temperature, metadata, golden, checked, file)
        return registry.register(file, golden.images[:2].numpy())
