"""The registry changes under the service: versions deleted, restored from a backup, or with other bytes."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.serving.conftest import Swap
from tests.serving.registry import Registry

NO_CHAMPION = "has no digits@champion yet: train a model first."


def tag(registry: Registry, version: str, digest: str) -> None:
    registry.client.set_model_version_tag("digits", version, "sha256", digest)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_deleted_champion_keeps_serving_until_another_is_promoted(
    registry: Registry, settings: Settings, model_file: Path, newer: Path
) -> None:
    first, second = registry.register(newer), registry.register(model_file)
    store = Store(settings, Metrics())
    assert store.refresh()
    registry.client.delete_model_version("digits", second)
    assert not store.refresh()
    assert store.describe()["version"] == second
    assert store.describe()["problem"].endswith(NO_CHAMPION)
    restarted = Store(settings, Metrics())
    assert not restarted.refresh()
    assert restarted.describe()["version"] == second
    registry.make_champion(first)
    for each in (store, restarted):
        assert each.refresh()
        assert each.describe()["version"] == first
        assert each.describe()["problem"] is None


def test_restored_registry_with_other_bytes_under_the_same_version_is_followed(
    registry: Registry, settings: Settings, model_file: Path, newer: Path, tmp_path: Path
) -> None:
    registry.register(model_file)
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "yesterday.db")
    store = Store(settings, Metrics())
    second = registry.register(newer)
    assert store.refresh()
    assert (store.describe()["version"], store.describe()["recipe"]) == (second, "newer")
    shutil.copy(tmp_path / "yesterday.db", tmp_path / "mlflow.db")
    assert store.refresh()
    assert store.describe()["version"] == "1"
    assert registry.register(model_file) == second
    assert store.refresh()
    assert (store.describe()["version"], store.describe()["recipe"]) == (second, "quick")


def test_version_matches_its_digest(registry: Registry, settings: Settings, model_file: Path) -> None:
    version = registry.register(model_file)
    tag(registry, version, digest(model_file).upper())
    store = Store(settings, Metrics())
    assert store.refresh()
    assert store.describe()["version"] == version


def test_version_with_another_digest_is_downloaded_again_and_refused(
    registry: Registry,
    settings: Settings,
    model_file: Path,
    newer: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    first = registry.register(model_file)
    store = Store(settings, Metrics())
    assert store.refresh()
    second = registry.register(newer)
    tag(registry, second, digest(model_file))
    for _ in range(2):
        assert not store.refresh()
    assert store.describe()["version"] == first
    problem = store.describe()["problem"]
    assert problem.startswith("refused: ")
    expected = f"{digest(newer)[:12]}…, but {digest(model_file)[:12]}… is expected."
    assert problem.endswith(f"model.onnx, version {second}, has the SHA-256 {expected}")
    assert len([line for line in caplog.messages if "downloaded again" in line]) == 1
    tag(registry, second, digest(newer))
    assert store.refresh()
    assert store.describe()["version"] == second


def test_damaged_download_is_replaced_by_a_good_one(
    registry: Registry, settings: Settings, model_file: Path, newer: Path
) -> None:
    version = registry.register(model_file)
    tag(registry, version, digest(model_file))
    store = Store(settings, Metrics())
    candidate = store._source.find()
    shutil.copyfile(newer, candidate.fetch())  # sound, but not the registered file
    assert store.refresh()
    assert store.describe()["recipe"] == "quick"


@pytest.mark.parametrize("moved", [0, 2**31])
def test_clock_moves_between_downloads(
    registry: Registry, settings: Settings, model_file: Path, newer: Path, moved: int
) -> None:
    registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    for path in settings.cache_dir.rglob("*"):
        os.utime(path, (moved, moved))
    store = Store(settings, Metrics())
    store.serve_cached()
    assert store.describe()["version"] == "1"
    second = registry.register(newer)
    assert store.refresh()
    assert store.describe()["version"] == second
    assert len(list(settings.cache_dir.rglob("model.onnx"))) == 1


def test_file_of_the_same_size_and_time_is_noticed(swap: Swap, tmp_path: Path) -> None:
    sizes = {path.stat().st_size for path in swap.models}
    assert len(sizes) == 1
    store = Store(Settings(model=swap.served), Metrics())
    os.utime(swap.served, (1, 1))
    assert store.refresh()
    shutil.copyfile(swap.models[1], tmp_path / "next")
    os.utime(tmp_path / "next", (1, 1))
    (tmp_path / "next").replace(swap.served)
    assert store.refresh()
    assert store.describe()["recipe"] == "other"
