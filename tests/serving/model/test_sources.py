import os
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.processes import free_port, mlflow_server
from tests.serving.registry import Registry


def test_empty_registry_is_reported(registry: Registry, settings: Settings) -> None:
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"the registry at {registry.uri} has no digits@champion yet: train a model first."


def test_missing_registry_is_not_created(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"there is no registry at sqlite:///{tmp_path}/none.db yet: train a model first."
    assert not (tmp_path / "none.db").exists()


def test_version_without_model_file_is_refused(
    registry: Registry, settings: Settings, model_file: Path, tmp_path: Path
) -> None:
    version = registry.register(model_file)
    for file in (tmp_path / "artifacts").rglob("model.onnx"):
        file.rename(file.with_name("other.onnx"))
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"refused: version {version} of digits contains no file model.onnx."


def test_cache_keeps_only_the_model_in_service(
    registry: Registry, settings: Settings, model_file: Path, newer: Path
) -> None:
    store = Store(settings, Metrics())
    for file in (model_file, newer):
        registry.register(file)
        assert store.refresh()
    (cached,) = settings.cache_dir.rglob("model.onnx")
    assert cached.read_bytes() == newer.read_bytes()


def test_cache_cleanup_deletes_only_its_own_folders(
    registry: Registry, settings: Settings, model_file: Path, newer: Path
) -> None:
    registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    models = settings.cache_dir / "models"
    (own,) = [path for path in models.iterdir() if path.is_dir()]
    foreign = [settings.cache_dir / name for name in ("photos", "1-2", "download-old")]
    foreign += [models / name for name in ("photos", "2024-11", "v1-2", "download-now")]
    for folder in foreign:
        folder.mkdir()
        (folder / "letter.txt").write_text("mine")
    (models / "7-8").symlink_to(settings.cache_dir / "photos")
    stale = models / "download-old"
    stale.mkdir()
    for folder in (stale, settings.cache_dir / "download-old"):
        os.utime(folder, (time.time() - 2 * 24 * 3600,) * 2)
    registry.register(newer)
    assert Store(settings, Metrics()).refresh()
    assert [folder.name for folder in foreign if not (folder / "letter.txt").exists()] == []
    assert not own.exists()
    assert not stale.exists()


def test_damaged_cached_file_is_downloaded_again(
    registry: Registry,
    settings: Settings,
    model_file: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    version = registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    (cached,) = settings.cache_dir.rglob("model.onnx")
    cached.write_bytes(b"half")
    store = Store(settings, Metrics())
    assert store.refresh()
    assert store.describe()["version"] == version
    assert cached.read_bytes() == model_file.read_bytes()
    assert len([record for record in caplog.records if "downloaded again" in record.message]) == 1


def test_bad_cached_version_is_refused_after_one_more_download(
    registry: Registry, settings: Settings, broken: Path, tmp_path: Path
) -> None:
    registry.register(broken)
    assert not Store(settings, Metrics()).refresh()
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert (store.problem or "").startswith("refused: ")
    for file in (tmp_path / "artifacts").rglob("model.onnx"):
        file.unlink()
    restarted = Store(settings, Metrics())
    assert not restarted.refresh()
    assert not list(settings.cache_dir.rglob("model.onnx"))


def test_recreated_registry_with_same_version_is_detected(
    registry: Registry, settings: Settings, model_file: Path, newer: Path, empty_database: Path, tmp_path: Path
) -> None:
    assert registry.register(model_file) == "1"
    assert Store(settings, Metrics()).refresh()
    registry.client.delete_registered_model("digits")
    registry.client.create_registered_model("digits")
    assert registry.register(newer) == "1"
    store = Store(settings, Metrics())
    assert store.refresh()
    assert store.describe()["recipe"] == "newer"


def test_champion_keeps_serving_after_mlflow_server_stops(
    model_file: Path, settings: Settings, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"the registry at {uri} does not answer."
    with mlflow_server(tmp_path, port):
        client = MlflowClient(uri)
        client.create_registered_model("digits")
        version = Registry(uri, client, tmp_path / "files").register(model_file)
        assert store.refresh()
        assert store.describe()["version"] == version
    assert not store.refresh()
    assert store.describe()["ready"]
    assert store.describe()["version"] == version
