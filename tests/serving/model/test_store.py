import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from serving.model.store import Store
from serving.monitoring.metrics import RELOADS, Metrics
from serving.settings import Settings
from tests.processes import wait_until
from tests.serving.conftest import set_metadata
from tests.serving.registry import Registry

Variant = Callable[..., Path]


def reloads(metrics: Metrics) -> dict[str, float | None]:
    return {result: metrics.registry.get_sample_value("digits_reloads_total", {"result": result}) for result in RELOADS}


def test_file_version_is_the_start_of_its_digest(model_file: Path) -> None:
    store = Store(Settings(model=model_file), Metrics())
    assert not store.describe()["ready"]
    assert store.refresh()
    assert store.current is not None
    assert store.current.version == store.current.model.digest[:12]
    description = store.describe()
    assert description["ready"]
    assert description["problem"] is None
    assert description["version"] == store.current.version
    assert description["source"] == f"file {model_file}"
    assert 0 < description["test_accuracy"] <= 1
    assert description["parameters"] > 1000
    assert description["recipe"]
    assert description["loaded_since"].endswith("+00:00")


def test_model_is_never_shown_while_it_counts_as_being_verified(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, shown = Metrics(), []
    store = Store(Settings(model=model_file, cache_dir=tmp_path), metrics)
    # The first that the store calls when another model is in service.
    monkeypatch.setattr(metrics, "set_model", lambda *_: shown.append(store.describe()))
    assert store.refresh()
    assert [(each["ready"], each["problem"]) for each in shown] == [(True, None)]


@pytest.mark.parametrize(("data", "warned"), [("tenth", True), ("full", False), ("fashion", False)])
def test_only_models_of_the_bundled_tenth_carry_the_warning(
    variant: Variant, caplog: pytest.LogCaptureFixture, bentoml_log: None, data: str, warned: bool
) -> None:
    def change(model: onnx.ModelProto) -> None:
        for name in ("data", "subset"):  # of version 1, and of version 2
            set_metadata(model, name, data)

    store = Store(Settings(model=variant(change)), Metrics())
    assert store.refresh()
    assert ("bundled tenth" in store.describe().get("warning", "")) is warned
    assert any("bundled tenth" in line for line in caplog.messages) is warned


def test_refused_file_is_reported_once_and_its_replacement_loads(
    broken: Path, model_file: Path, caplog: pytest.LogCaptureFixture, bentoml_log: None
) -> None:
    metrics = Metrics()
    store = Store(Settings(model=broken), metrics)
    assert not store.refresh()
    assert not store.refresh()
    assert reloads(metrics) == {"loaded": 0, "cached": 0, "refused": 1, "unavailable": 0}
    assert store.current is None
    assert store.problem is not None
    assert "refused" in store.problem
    assert str(broken) in store.problem
    assert store.describe() == {"ready": False, "problem": store.problem}
    assert len([record for record in caplog.records if "contract version" in record.message]) == 1
    shutil.copyfile(model_file, broken)
    assert store.refresh()
    assert store.refresh()
    assert reloads(metrics) == {"loaded": 1, "cached": 0, "refused": 1, "unavailable": 0}
    assert store.describe()["ready"]


def test_missing_file_is_served_once_it_appears(tmp_path: Path, model_file: Path) -> None:
    store = Store(Settings(model=tmp_path / "later.onnx", poll_seconds=0.1), Metrics())
    store.start()
    try:
        wait_until(lambda: "No such file" in (store.problem or ""), "the missing file being reported")
        shutil.copyfile(model_file, tmp_path / "partial")
        (tmp_path / "partial").rename(tmp_path / "later.onnx")
        wait_until(lambda: store.current is not None, "the file being served")
    finally:
        store.stop()


def test_unreadable_file_is_retried(tmp_path: Path, model_file: Path) -> None:
    metrics = Metrics()
    store = Store(Settings(model=tmp_path), metrics)  # a folder
    for _ in range(2):
        assert not store.refresh()
    assert store.problem == f"{tmp_path} cannot be read: Is a directory."
    assert reloads(metrics) == {"loaded": 0, "cached": 0, "refused": 0, "unavailable": 2}


@pytest.mark.parametrize("step", ["serve_cached", "refresh"])
def test_unexpected_error_does_not_stop_following(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, step: str, caplog: pytest.LogCaptureFixture, bentoml_log: None
) -> None:
    store = Store(Settings(model=model_file, poll_seconds=0.1), Metrics())
    original = getattr(store, step)

    def fail_once() -> None:
        monkeypatch.setattr(store, step, original)
        raise RuntimeError("once")

    monkeypatch.setattr(store, step, fail_once)
    store.start()
    try:
        wait_until(lambda: store.current is not None, "the file being served")
    finally:
        store.stop()
    assert caplog.messages[0].startswith("Updating the model failed: once\nTraceback")


def test_promotion_and_rollback_swap_the_model(
    registry: Registry,
    settings: Settings,
    model_file: Path,
    newer: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    store = Store(settings, Metrics())
    first = registry.register(model_file)
    assert store.refresh()
    assert store.describe()["version"] == first
    assert store.describe()["source"] == f"registry {registry.uri} digits@champion"
    before = store.current
    assert store.refresh()
    assert store.current is before
    second = registry.register(newer)
    assert store.refresh()
    assert (store.describe()["version"], store.describe()["recipe"]) == (second, "newer")
    registry.make_champion(first)
    assert store.refresh()
    assert store.describe()["version"] == first
    loaded = [record.message for record in caplog.records if record.message.startswith("Model loaded")]
    assert [line.split(",")[0] for line in loaded] == [f"Model loaded: version {n}" for n in (first, second, first)]


def test_bad_champion_is_refused_once_and_old_model_keeps_serving(
    registry: Registry,
    settings: Settings,
    model_file: Path,
    broken: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    store, database = Store(settings, Metrics()), tmp_path / "mlflow.db"
    first = registry.register(model_file)
    assert store.refresh()
    registry.register(broken)
    assert not store.refresh()
    assert not store.refresh()
    assert store.describe()["version"] == first
    assert store.describe()["ready"]
    assert "contract version '0'" in store.describe()["problem"]
    assert len([record for record in caplog.records if record.message.startswith("Model not updated: refused: ")]) == 1
    database.rename(tmp_path / "away.db")
    assert not store.refresh()
    assert "there is no registry" in store.describe()["problem"]
    (tmp_path / "away.db").rename(database)
    assert not store.refresh()
    assert "contract version '0'" in store.describe()["problem"]
    registry.make_champion(first)
    assert store.refresh()
    assert store.describe()["problem"] is None


def test_last_good_model_serves_from_cache_without_registry(
    registry: Registry, settings: Settings, model_file: Path, newer: Path, tmp_path: Path
) -> None:
    store = Store(settings, Metrics())
    registry.register(newer)
    second = registry.register(model_file)
    assert store.refresh()
    (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    assert not store.refresh()
    assert store.describe()["ready"]

    metrics = Metrics()
    restarted = Store(settings, metrics)
    assert not restarted.refresh()
    assert reloads(metrics) == {"loaded": 0, "cached": 1, "refused": 0, "unavailable": 1}
    description = restarted.describe()
    assert description["version"] == second
    assert description["source"].startswith("cache ")
    assert "there is no registry" in description["problem"]

    (tmp_path / "away.db").rename(tmp_path / "mlflow.db")
    assert restarted.refresh()
    assert restarted.describe()["problem"] is None
    assert restarted.describe()["source"].startswith("registry ")


def test_restart_serves_from_cache_then_follows_registry(
    registry: Registry, settings: Settings, model_file: Path, newer: Path
) -> None:
    registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    second = registry.register(newer)
    metrics = Metrics()
    restarted = Store(settings, metrics)
    restarted.serve_cached()
    assert restarted.describe()["version"] == "1"
    assert reloads(metrics) == {"loaded": 0, "cached": 1, "refused": 0, "unavailable": 0}

    restarted.start()
    try:
        wait_until(lambda: restarted.describe()["version"] == second, "the swap to the new champion")
    finally:
        restarted.stop()
    assert restarted.describe()["source"].startswith("registry ")


def test_damaged_cache_is_not_served(registry: Registry, settings: Settings, model_file: Path, tmp_path: Path) -> None:
    registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    (cached,) = settings.cache_dir.rglob("model.onnx")
    cached.write_bytes(b"half")
    (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    restarted = Store(settings, Metrics())
    assert not restarted.refresh()
    assert restarted.current is None
    (settings.cache_dir / "models" / "last-good.json").write_text("{")
    assert not restarted.refresh()


def test_fractional_parameter_count_is_reported_as_problem(variant: Variant) -> None:
    store = Store(Settings(model=variant(lambda model: set_metadata(model, "parameters", "421642.0"))), Metrics())
    assert not store.refresh()
    assert "not a whole number" in store.describe()["problem"]
