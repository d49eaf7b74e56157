"""What each command does."""

import logging
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline import flow
from pipeline.data import mnist as data
from pipeline.data.dataset import DataSet, Digits
from pipeline.experiments import compare as comparison
from pipeline.experiments import table
from pipeline.export import check_contract, predict
from pipeline.recipes import find
from pipeline.settings import (
    CompareSettings,
    DataSettings,
    ExportSettings,
    GateSettings,
    PromoteSettings,
    RunSettings,
    Settings,
    TrainSettings,
)
from pipeline.tracking import registry
from pipeline.tracking import runs as tracking
from pipeline.tracking.registry import CHAMPION, PREVIOUS, RegistryError, number
from pipeline.training import fingerprint as provenance
from pipeline.training.devices import choose_device, describe_device

log = logging.getLogger(__name__)


def train(settings: TrainSettings) -> None:
    """Train a recipe, export and prove the model, and promote it if it deserves it."""
    dataset, device = _prepare(settings)
    recipe = find(settings.recipe)
    known = registry.find(provenance.fingerprint(recipe, settings.seed, device, dataset))
    if known is None or settings.fresh:
        version = flow.run(recipe, settings, dataset, device)
        _judge(version, dataset, settings)
    else:
        version = known
        log.info(
            "These settings, data and code gave version %s already: not trained again (--fresh does).", number(known)
        )
        # Judged once is judged, or a rollback would not last; but without a champion another minimum may let it pass.
        if "verdict" not in known.tags or registry.by_alias(CHAMPION) is None:
            _judge(version, dataset, settings)
    _require_champion(version)


def compare(settings: CompareSettings) -> None:
    """Train recipes over seeds, and put them side by side in one table."""
    dataset, device = _prepare(settings)
    rows = comparison.compare([find(name) for name in settings.recipes], settings, dataset, device)
    terminal = Console()
    # where nobody set a width, rich takes 80 columns, and the table would be cut into pieces
    Console(width=None if terminal.is_terminal else max(terminal.width, 120)).print(table.draw(rows))


def export(settings: ExportSettings) -> None:
    """Write the champion, or another version, to a file that serves without MLflow."""
    tracking.connect(settings.state_dir, settings.tracking_timeout)
    version = registry.get(settings.version) if settings.version else registry.by_alias(CHAMPION)
    if version is None:
        raise RegistryError("There is no champion to export: run `python -m pipeline train`, or name a --version.")
    with tempfile.TemporaryDirectory() as folder:
        file = registry.download(version, Path(folder))
        check_contract(file)
        if str(settings.to) == "-":
            try:
                sys.stdout.buffer.write(file.read_bytes())
                sys.stdout.flush()
            except OSError as error:
                raise RegistryError(f"The standard output takes no file ({error.strerror}).") from None
            log.info("Version %s is written to the standard output.", number(version))
            return
        partial = settings.to.with_name(f"{settings.to.name}.partial")
        try:
            settings.to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial)
            partial.replace(settings.to)  # in one step: a service may follow this file
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise RegistryError(f"{settings.to} cannot be written ({error.strerror}): name a file with --to.") from None
    log.info("Version %s is in %s (%s bytes).", number(version), settings.to, f"{settings.to.stat().st_size:,}")


def promote(settings: PromoteSettings) -> None:
    """Judge a version by the gate, and make it champion if it passes."""
    dataset = _load(settings)
    tracking.connect(settings.state_dir, settings.tracking_timeout)
    newest = registry.versions_of_model()[:1]
    if not newest:
        raise RegistryError("There is no version to promote: run `python -m pipeline train` first.")
    version = registry.get(settings.version) if settings.version else newest[0]
    champion = registry.by_alias(CHAMPION)
    if champion and number(champion) == number(version) and "verdict" in version.tags:
        log.info("Version %s is champion already.", number(version))
        return
    _judge(version, dataset, settings)
    champion = registry.by_alias(CHAMPION)
    if champion is None or number(champion) != number(version):
        raise RegistryError(f"Version {number(version)} did not pass the gate.")


def rollback(settings: Settings) -> None:
    """Serve the previous champion again."""
    tracking.connect(settings.state_dir, settings.tracking_timeout)
    champion, former = registry.rollback()
    log.info("Version %s is champion again; version %s is previous.", number(champion), number(former))


def status(settings: Settings) -> None:
    """List the versions: which is champion, how good each is, why it won or lost."""
    tracking.connect(settings.state_dir, settings.tracking_timeout)
    aliases = {alias: registry.by_alias(alias) for alias in (CHAMPION, PREVIOUS)}
    table = Table(title=f"Registered model {registry.MODEL}")
    for heading in ("version", "alias", "recipe", "data", "validation", "test", "why"):
        table.add_column(heading, overflow="fold")
    for version in registry.versions_of_model():
        names = [alias for alias, at in aliases.items() if at and number(at) == number(version)]
        tags = version.tags
        table.add_row(
            str(number(version)), ", ".join(names), tags.get("recipe"), tags.get("data"),
            *(f"{float(tags[key]):.2%}" if key in tags else "?" for key in ("validation_accuracy", "test_accuracy")),
            tags.get("verdict", "not judged"),
        )  # fmt: skip
    Console().print(table if table.row_count else "No version is registered yet: run `python -m pipeline train`.")


def _prepare(settings: RunSettings) -> tuple[DataSet, torch.device]:
    """What every training needs: digits, a device, and MLflow."""
    dataset = _load(settings)
    device = choose_device(settings.device)
    log.info("Device: %s.", describe_device(device))
    tracking.connect(settings.state_dir, settings.tracking_timeout)
    return dataset, device


def _load(settings: DataSettings) -> DataSet:
    return data.load(settings.data, settings.mnist_dir, settings.state_dir / "data")


def _judge(version: ModelVersion, dataset: DataSet, settings: GateSettings) -> None:
    rival = registry.by_alias(CHAMPION)
    if rival and number(rival) == number(version):  # its promotion was cut off before the verdict was written
        rival = registry.by_alias(PREVIOUS)
    verdict = registry.may_replace(version, rival) or registry.judge(
        _right(version, dataset.validation),
        _right(rival, dataset.validation) if rival else None,
        settings.minimum_accuracy,
        settings.significance,
    )
    registry.record(version, verdict, rival)


def _right(version: ModelVersion, digits: Digits) -> NDArray[np.bool_]:
    with tempfile.TemporaryDirectory() as folder:
        answers = predict(registry.download(version, Path(folder)), digits).argmax(axis=1)
    right: NDArray[np.bool_] = answers == digits.labels.numpy()
    return right


def _require_champion(version: ModelVersion) -> None:
    champion = registry.by_alias(CHAMPION)
    if champion is None:
        why = registry.get(number(version)).tags.get("verdict")
        raise RegistryError(f"There is no champion to serve: version {number(version)} was not promoted, for {why}.")
    log.info(
        "Champion: version %s (%s, %.2f %% on the test digits).",
        number(champion), champion.tags.get("recipe"), 100 * float(champion.tags.get("test_accuracy", "nan")),
    )  # fmt: skip
