"""A cache that cannot be written or is damaged costs a download, not the service."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.serving.registry import Registry


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount something on `folder`, which needs root."""
    done = subprocess.run(["mount", *arguments, str(folder)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    yield
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only(settings: Settings) -> Iterator[Callable[[], None]]:
    """Make the cache read-only, with its content."""
    models = settings.cache_dir / "models"
    mounts: list[Iterator[None]] = []

    def protect() -> None:
        if os.geteuid():
            models.chmod(0o555)
            return
        mounts.append(mounted(models, "-o", "bind,ro", str(models)))
        next(mounts[0])

    yield protect
    for mount in mounts:
        next(mount, None)
    models.chmod(0o755)


@pytest.fixture
def full_disk(settings: Settings) -> Iterator[None]:
    settings.cache_dir.mkdir()
    yield from mounted(settings.cache_dir, "-t", "tmpfs", "-o", "size=1m", "tmpfs")


@pytest.fixture
def file_in_its_place(settings: Settings) -> None:
    settings.cache_dir.write_text("not a folder")


@pytest.mark.parametrize("cause", ["file_in_its_place", "full_disk"])
def test_cache_without_room_is_replaced_by_a_temporary_folder(
    request: pytest.FixtureRequest,
    cause: str,
    registry: Registry,
    settings: Settings,
    model_file: Path,
    newer: Path,
    temporary: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    request.getfixturevalue(cause)
    store = Store(settings, Metrics())
    for file in (model_file, newer):
        version = registry.register(file)
        assert store.refresh()
        assert store.describe()["version"] == version
        assert store.describe()["problem"] is None
    lines = [line for line in caplog.messages if "is not writable" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{settings.cache_dir / 'models'} is not writable (")
    assert lines[0].endswith("): models are downloaded to a temporary folder")
    assert list(temporary.iterdir()) == []


def test_read_only_cache_serves_its_model_and_follows_the_registry(
    registry: Registry,
    settings: Settings,
    model_file: Path,
    newer: Path,
    temporary: Path,
    read_only: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    first = registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    read_only()
    store = Store(settings, Metrics())
    store.serve_cached()
    assert store.describe()["version"] == first
    assert store.refresh()
    assert [line for line in caplog.messages if "writable" in line or "cache:" in line] == []
    second = registry.register(newer)
    assert store.refresh()
    assert store.describe()["version"] == second
    assert len([line for line in caplog.messages if "is not writable" in line]) == 1
    assert list(temporary.iterdir()) == []


def spoil_silently(file: Path) -> None:
    """Change a byte that neither the contract nor the golden batch covers."""
    content = file.read_bytes()
    place = content.index(b"created") + len("created") + 2
    file.write_bytes(content[:place] + b"1" + content[place + 1 :])
    assert file.read_bytes() != content


def replace_by_folder(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


@pytest.mark.parametrize("damage", [spoil_silently, replace_by_folder])
def test_damaged_cache_is_refused_and_downloaded_again(
    registry: Registry, settings: Settings, model_file: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    version = registry.register(model_file)
    assert Store(settings, Metrics()).refresh()
    (cached,) = settings.cache_dir.rglob("model.onnx")
    damage(cached)
    (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    store = Store(settings, Metrics())
    store.serve_cached()
    assert store.current is None
    assert "the cached model is refused: " in (store.problem or "")
    (tmp_path / "away.db").rename(tmp_path / "mlflow.db")
    registry.client.set_model_version_tag("digits", version, "sha256", store_digest(model_file))
    assert store.refresh()
    assert cached.read_bytes() == model_file.read_bytes()


def store_digest(file: Path) -> str:
    store = Store(Settings(model=file), Metrics())
    assert store.refresh()
    assert store.current is not None
    return store.current.model.digest


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "null", '{"key": "1-1"}', json.dumps({"key": "../../models", "version": "1"})]
)
def test_damaged_record_counts_as_none(settings: Settings, record: str, registry: Registry) -> None:
    models = settings.cache_dir / "models"
    models.mkdir(parents=True)
    (models / "model.onnx").write_text("outside")
    (models / "last-good.json").write_text(record)
    store = Store(settings, Metrics())
    store.serve_cached()
    assert store.current is None
    assert store.problem == "the model is being loaded."
