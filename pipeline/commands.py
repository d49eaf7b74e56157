"""The commands: settings in, side effects and log lines out."""

import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import flow, promotion
from pipeline.data import named
from pipeline.data.dataset import DataSet
from pipeline.data.names import flag_of, folder_of, model_of, name_of
from pipeline.data.pictures import folder
from pipeline.experiments import extras, table
from pipeline.experiments.compare import compare as carry_out
from pipeline.experiments.space import read_space
from pipeline.form import read_form
from pipeline.promotion import Gate
from pipeline.recipes import find
from pipeline.settings import (
    CompareSettings,
    DataSettings,
    ExportSettings,
    GateSettings,
    ModelSettings,
    PromoteSettings,
    PublishSettings,
    RollbackSettings,
    RunSettings,
    SearchSettings,
    TrainSettings,
)
from pipeline.tracking import outbox, registry, runs
from pipeline.tracking.connection import AwayError, TrackingError, connect, patiently
from pipeline.tracking.delivery import Delivery, deliver_left
from pipeline.tracking.descriptions import describe_experiment
from pipeline.tracking.registry import CHAMPION, PREVIOUS, RegistryError, Version
from pipeline.tracking.turns import turn
from pipeline.training.devices import choose_device, describe_device
from pipeline.training.run import Run

log = logging.getLogger(__name__)


def train(settings: TrainSettings) -> None:
    """Train a recipe, export and prove the model, and promote it if it passes the gate."""
    dataset, device = _prepare(settings)
    run = Run(find(settings.recipe), settings.seed, dataset, device)
    _warn_of_unused(settings, [run])
    model = model_of(dataset.task.dataset)
    with turn(settings.state_dir, "training"):
        if deliver_left(settings.state_dir, settings.tracking_patience):
            _judge_waiting(settings, dataset)
        known = None if settings.fresh else registry.find_intact(run.fingerprint)
        if known:
            log.info(
                "Version %s already matches these settings, data and code; skipping training (--fresh repeats it).",
                known.number,
            )
            runs.finish(known.run_id)
            number = known.number
        else:
            with Delivery(settings.state_dir, settings.tracking_patience) as delivery:
                key = flow.train_and_register(run, settings, delivery)
            number = delivery.version(key).number

    def decide() -> None:
        with turn(settings.state_dir, "aliases"):
            promotion.finish(model)
            version = registry.get(number, model)
            # A recorded verdict stands, or a rollback would not last; without a champion another minimum may let it
            # pass.
            if not promotion.is_judged(version) or registry.by_alias(CHAMPION, model) is None:
                promotion.consider(version, dataset.validation, _gate(settings, dataset))
        log.info("Runs: %s", describe_experiment())
        promotion.require_champion(version)

    patiently(decide, settings.tracking_patience)


def compare(settings: CompareSettings) -> None:
    """Train recipes over seeds, and print them in one table."""
    dataset, device = _prepare(settings)
    seeds = range(1, settings.seeds + 1)
    planned = [Run(find(name), seed, dataset, device) for name in settings.recipes for seed in seeds]
    _warn_of_unused(settings, planned)
    with turn(settings.state_dir, "training"):
        deliver_left(settings.state_dir, settings.tracking_patience)
        with Delivery(settings.state_dir, settings.tracking_patience) as delivery:
            rows = carry_out(planned, settings, delivery)
            terminal = Console()
            # Without a terminal rich assumes 80 columns, too few for the table.
            Console(width=None if terminal.is_terminal else max(terminal.width, 120)).print(table.draw(rows))
    log.info("Runs: %s", patiently(describe_experiment, settings.tracking_patience))


def search(settings: SearchSettings) -> None:
    """Try recipes of a space, and write the best to a file."""
    module = extras.load("search", "search", "`search`")
    space = read_space(settings.space)
    dataset, device = _prepare(settings)
    with turn(settings.state_dir, "training"):
        deliver_left(settings.state_dir, settings.tracking_patience)
        with Delivery(settings.state_dir, settings.tracking_patience) as delivery:
            module.search(space, settings, dataset, device, delivery)
    log.info("Runs: %s", patiently(describe_experiment, settings.tracking_patience))


def publish(settings: PublishSettings) -> None:
    """Deliver the reports that MLflow has yet to receive, and judge the versions that have no verdict."""
    try:
        connect(settings.state_dir, settings.tracking_timeout)
    except TrackingError as error:
        raise AwayError(f"{error} {outbox.count(settings.state_dir)} reports are kept.") from error
    log.info("%d reports are delivered.", deliver_left(settings.state_dir, settings.tracking_patience))

    def decide() -> None:
        for version in _judge_waiting(settings, None):
            promotion.require_champion(version)

    patiently(decide, settings.tracking_patience)


def export(settings: ExportSettings) -> None:
    """Write the champion, or another version, to a file that can be served without MLflow."""
    connect(settings.state_dir, settings.tracking_timeout)
    model = _model(settings)
    version = registry.get(settings.version, model) if settings.version else registry.by_alias(CHAMPION, model)
    if version is None:
        flag = flag_of(model)
        raise RegistryError(
            f"There is no champion to export: run `python -m pipeline train{flag}`, or name a --version."
        )
    with tempfile.TemporaryDirectory() as folder:
        file = registry.download(version, Path(folder))
        if str(settings.to) == "-":
            try:
                sys.stdout.buffer.write(file.read_bytes())
                sys.stdout.flush()
            except OSError as error:
                raise RegistryError(f"The standard output does not accept the file ({error.strerror}).") from None
            log.info("Version %s is written to the standard output.", version.number)
            return
        if settings.to.is_dir():
            raise RegistryError(f"{settings.to} cannot be written (Is a directory): name a file with --to.")
        partial = settings.to.with_name(f"{settings.to.name}.partial")
        try:
            settings.to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial)
            partial.replace(settings.to)  # atomic: a service may follow this file
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise RegistryError(f"{settings.to} cannot be written ({error.strerror}): name a file with --to.") from None
    log.info("Version %s is in %s (%s bytes).", version.number, settings.to, f"{settings.to.stat().st_size:,}")


def promote(settings: PromoteSettings) -> None:
    """Judge a version by the gate, and make it champion if it passes. It replaces a champion whose file is damaged."""
    connect(settings.state_dir, settings.tracking_timeout)
    model = _model(settings)
    newest = registry.all_versions(model)[:1]
    if not newest:
        raise RegistryError(
            f"There is no version of {model} to promote: run `python -m pipeline train{flag_of(model)}` first."
        )
    version = registry.get(settings.version, model) if settings.version else newest[0]
    with turn(settings.state_dir, "aliases"):
        promotion.finish(model)
        champion = registry.by_alias(CHAMPION, model)
        if champion and champion.number == version.number:
            log.info("Version %s is already champion.", version.number)
            return
        dataset = _load_for(version, settings)
        log.info("Judging version %s on the validation pictures.", version.number)
        verdict = promotion.consider(version, dataset.validation, _gate(settings, dataset), explicit=True)
    if not verdict.promoted:
        raise RegistryError(f"Version {version.number} did not pass the gate.")


def rollback(settings: RollbackSettings) -> None:
    """Serve the previous champion again."""
    connect(settings.state_dir, settings.tracking_timeout)
    with turn(settings.state_dir, "aliases"):
        champion, former = promotion.rollback(_model(settings), settings.yes)
    before = f"version {former.number} is previous" if former else "there is no version before it"
    log.info("Version %s is champion again; %s.", champion.number, before)


def status(settings: ModelSettings) -> None:
    """List the versions: aliases, accuracy, and the gate's verdict."""
    connect(settings.state_dir, settings.tracking_timeout)
    model = _model(settings)
    aliases = {alias: registry.by_alias(alias, model) for alias in (CHAMPION, PREVIOUS)}
    listed = Table(title=f"Registered model {escape(model)}")
    for heading in ("version", "alias", "recipe", "subset", "validation", "test", "verdict"):
        listed.add_column(heading, overflow="fold")
    for version in registry.all_versions(model):
        names = [alias for alias, at in aliases.items() if at and at.number == version.number]
        tags = version.tags
        listed.add_row(
            str(version.number), ", ".join(names), escape(tags.get("recipe", "")), escape(version.subset),
            *(_percent(tags.get(key, "")) for key in ("validation_accuracy", "test_accuracy")),
            escape(tags.get("verdict", "not judged")),
        )  # fmt: skip
    waiting = outbox.count(settings.state_dir)
    if waiting:
        log.warning("%d reports wait for MLflow: run `python -m pipeline publish`.", waiting)
    if listed.row_count:
        Console().print(listed)
        return
    others = registry.models()
    there = f" There are versions of {', '.join(others)}: choose one by --dataset." if others else ""
    Console().print(
        f"No version of {model} is registered yet: run `python -m pipeline train{flag_of(model)}`.{there}", markup=False
    )


def _prepare(settings: RunSettings) -> tuple[DataSet, torch.device]:
    dataset = _load(settings)
    device = choose_device(settings.device)
    log.info("Device: %s.", describe_device(device))
    connect(settings.state_dir, settings.tracking_timeout)
    return dataset, device


def _load(settings: DataSettings) -> DataSet:
    """Load the pictures that the settings name; raises `DataError` if they cannot be used."""
    pictures, kept = folder_of(settings.dataset), settings.state_dir / "data"
    if pictures is None:
        return named.load(settings.dataset, settings.subset, settings.dataset_dir, settings.mnist_dir, kept)
    preparation = {"name": "stroke"} if settings.preparation == "stroke" else {"name": "fit", "background": "edge"}
    return folder.load(pictures, settings.size, preparation, kept, settings.flip)


def _warn_of_unused(settings: RunSettings, planned: Sequence[Run]) -> None:
    """Warn of settings for folders that change nothing here."""
    if folder_of(settings.dataset) is None:
        changed = {"size", "preparation", "flip"} & settings.model_fields_set
        if changed:
            listed = ", ".join(sorted(changed))
            log.warning("These settings are for folders of pictures and change nothing here: %s.", listed)
    elif settings.flip:
        names = {run.recipe.name for run in planned if not run.recipe.augmentation.flip}
        if names:
            log.warning(
                "flip does not change %s: write `flip = true` under [augmentation] in a recipe of your own.",
                ", ".join(sorted(names)),
            )


def _load_for(version: Version, settings: DataSettings, loaded: DataSet | None = None) -> DataSet:
    """Load the pictures in the size and with the preparation of a version, unless `loaded` has them."""
    if folder_of(settings.dataset) is None:
        return loaded or _load(settings)
    with tempfile.TemporaryDirectory() as folder:
        form = read_form(registry.download(version, Path(folder)))
    if loaded and (loaded.task.shape[:2], loaded.task.preparation) == (form.shape[:2], form.preparation):
        return loaded
    own = {"size": form.shape[0], "preparation": form.preparation["name"]}
    return _load(settings.model_copy(update=own))


def _model(settings: ModelSettings) -> str:
    """The registered model of the settings' data set."""
    return model_of(name_of(settings.dataset))


def _percent(number: str) -> str:
    try:
        return f"{float(number):.2%}"
    except ValueError:
        return "?"


def _judge_waiting(settings: GateSettings, dataset: DataSet | None) -> list[Version]:
    """Judge the versions without a verdict that are newer than the champion, the oldest first."""
    with turn(settings.state_dir, "aliases"):
        model = _model(settings)
        promotion.finish(model)
        champion = registry.by_alias(CHAMPION, model)
        newest = champion.number if champion else 0
        versions = registry.all_versions(model)
        waiting = [each for each in versions if each.number > newest and not promotion.is_judged(each)]
        for version in reversed(waiting):
            dataset = _load_for(version, settings, dataset)
            promotion.consider(version, dataset.validation, _gate(settings, dataset))
    return waiting


def _gate(settings: GateSettings, dataset: DataSet) -> Gate:
    minimum = dataset.minimum_accuracy if settings.minimum_accuracy is None else settings.minimum_accuracy
    return Gate(minimum, settings.significance)
