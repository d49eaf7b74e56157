import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from serving.metrics import RELOADS, Metrics
from serving.settings import Settings
from serving.store import Store
from tests.processes import free_port, mlflow_server, wait_until

from .conftest import set_metadata

Variant = Callable[..., Path]


@dataclass
class Registry:
    """A real MLflow registry, with what training does to it."""

    uri: str
    client: MlflowClient
    artifacts: Path

    def register(self, file: Path) -> str:
        """Make a run that holds `file` as model.onnx, register it and make it champion; returns the version."""
        experiment = self.client.get_experiment_by_name("store") or self.client.get_experiment(
            self.client.create_experiment("store", None if self.uri.startswith("http") else self.artifacts.as_uri())
        )
        run = self.client.create_run(experiment.experiment_id)
        named = self.artifacts / run.info.run_id / "model.onnx"
        named.parent.mkdir(parents=True)
        shutil.copy(file, named)
        self.client.log_artifact(run.info.run_id, str(named), "model")
        source = f"{run.info.artifact_uri}/model"
        version = str(self.client.create_model_version("digits", source, run.info.run_id).version)
        self.make_champion(version)
        return version

    def make_champion(self, version: str) -> None:
        self.client.set_registered_model_alias("digits", "champion", version)


def reloads(metrics: Metrics) -> dict[str, float | None]:
    return {result: metrics.registry.get_sample_value("digits_reloads_total", {"result": result}) for result in RELOADS}


@pytest.fixture(autouse=True)
def _forget_the_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The store tells MLflow where the registry is, for the whole process."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with an empty registry: made once, because its migrations take seconds."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_registered_model("digits")
    return path


@pytest.fixture
def registry(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Registry(uri, MlflowClient(uri), tmp_path / "artifacts")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", poll_seconds=0.1)


@pytest.fixture
def newer(variant: Variant) -> Path:
    """The same network, said to be of another recipe."""
    return variant(lambda model: set_metadata(model, "recipe", "newer"), "newer.onnx")


@pytest.fixture
def broken(variant: Variant) -> Path:
    return variant(lambda model: set_metadata(model, "contract", "0"), "broken.onnx")


def test_a_file_is_served_under_the_first_digits_of_its_digest(model_file: Path) -> None:
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


def test_a_model_of_the_bundled_tenth_says_so(variant: Variant, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(Settings(model=variant(lambda model: set_metadata(model, "data", "tenth"))), Metrics())
    assert store.refresh()
    assert "bundled tenth" in store.describe()["warning"]
    store = Store(Settings(model=variant(lambda model: set_metadata(model, "data", "full"))), Metrics())
    assert store.refresh()
    assert "warning" not in store.describe()


def test_a_refused_file_is_named_and_a_better_one_in_its_place_is_taken(
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


def test_a_file_that_is_not_there_is_waited_for(tmp_path: Path, model_file: Path) -> None:
    store = Store(Settings(model=tmp_path / "later.onnx", poll_seconds=0.1), Metrics())
    store.start()
    try:
        wait_until(lambda: "No such file" in (store.problem or ""), "the missing file being reported")
        shutil.copyfile(model_file, tmp_path / "partial")
        (tmp_path / "partial").rename(tmp_path / "later.onnx")
        wait_until(lambda: store.current is not None, "the file being served")
    finally:
        store.stop()


def test_an_empty_registry_is_not_ready_and_says_why(registry: Registry, settings: Settings) -> None:
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"the registry at {registry.uri} has no digits@champion yet: train a model first."


def test_a_registry_that_is_not_there_is_not_made(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"there is no registry at sqlite:///{tmp_path}/none.db yet: train a model first."
    assert not (tmp_path / "none.db").exists()


def test_the_champion_is_followed_forwards_and_back(
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
    loaded = [record.message for record in caplog.records if record.message.startswith("model loaded")]
    assert [line.split(",")[0] for line in loaded] == [f"model loaded: version {n}" for n in (first, second, first)]


def test_a_bad_champion_is_refused_once_and_the_old_one_keeps_serving(
    registry: Registry,
    settings: Settings,
    model_file: Path,
    broken: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
) -> None:
    store = Store(settings, Metrics())
    first = registry.register(model_file)
    assert store.refresh()
    registry.register(broken)
    assert not store.refresh()
    assert not store.refresh()
    assert store.describe()["version"] == first
    assert store.describe()["ready"]
    assert "contract version '0'" in store.describe()["problem"]
    assert len([record for record in caplog.records if record.message.startswith("refused: ")]) == 1
    registry.make_champion(first)
    assert store.refresh()
    assert store.describe()["problem"] is None


def test_a_version_without_a_model_file_is_refused(
    registry: Registry, settings: Settings, model_file: Path, tmp_path: Path
) -> None:
    version = registry.register(model_file)
    for file in (tmp_path / "artifacts").rglob("model.onnx"):
        file.rename(file.with_name("other.onnx"))
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem == f"refused: version {version} of digits holds no file model.onnx."


def test_without_the_registry_the_last_good_model_is_served_from_the_cache(
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


def test_a_restart_serves_from_the_cache_and_then_follows_the_registry(
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


def test_a_damaged_cache_is_not_served(
    registry: Registry, settings: Settings, model_file: Path, tmp_path: Path
) -> None:
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


def test_only_the_model_in_service_stays_in_the_cache(
    registry: Registry, settings: Settings, model_file: Path, newer: Path
) -> None:
    store = Store(settings, Metrics())
    for file in (model_file, newer):
        registry.register(file)
        assert store.refresh()
    (cached,) = settings.cache_dir.rglob("model.onnx")
    assert cached.read_bytes() == newer.read_bytes()


def test_nothing_but_what_is_its_own_is_deleted(
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


def test_a_damaged_cached_file_is_downloaded_again(
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


def test_a_bad_version_in_the_cache_is_refused_after_one_more_download(
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


def test_a_whole_number_with_a_point_does_not_get_as_far_as_the_description(variant: Variant) -> None:
    store = Store(Settings(model=variant(lambda model: set_metadata(model, "parameters", "421642.0"))), Metrics())
    assert not store.refresh()
    assert "not a whole number" in store.describe()["problem"]


def test_a_registry_made_anew_with_the_same_version_is_noticed(
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


def test_the_champion_of_a_server_is_downloaded_and_outlives_the_server(
    model_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = Store(settings, Metrics())
    assert not store.refresh()
    assert store.problem is not None
    assert store.problem.startswith(f"the registry at {uri} does not answer: ")
    with mlflow_server(tmp_path, port):
        client = MlflowClient(uri)
        client.create_registered_model("digits")
        version = Registry(uri, client, tmp_path / "files").register(model_file)
        assert store.refresh()
        assert store.describe()["version"] == version
    assert not store.refresh()
    assert store.describe()["ready"]
    assert store.describe()["version"] == version
