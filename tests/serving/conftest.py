"""A real service in a process of its own, and models that break the contract in one way each."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import onnx
import psutil
import pytest
from mlflow import MlflowClient

from serving.model.onnx_file import Model
from serving.model.sources import NOISY
from serving.settings import Settings
from tests.processes import free_port, running, wait_until

from .handmade import COLOUR, metadata_of, write_model
from .registry import Registry

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMED_DIGITS = {
    "dataset": "folder:named",
    "classes": NAMES,
    "height": 28,
    "width": 28,
    "channels": 1,
    "preparation": {"name": "stroke"},
}


@dataclass(frozen=True)
class Service:
    """A running service: where it is, where its log is, an HTTP client for it, and `bentoml serve` itself."""

    url: str
    log: Path
    client: httpx.Client
    process: psutil.Process

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        children = self.process.children(recursive=True)
        return [child for child in children if "_bentoml_impl.worker.service" in child.cmdline()]

    def wait_for(self, status: int, path: str = "/readyz") -> httpx.Response:
        def holds() -> bool:
            ended = not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE
            assert not ended, f"the service ended before {path} answered {status}"
            try:
                return self.client.get(path).status_code == status
            except httpx.TransportError:
                return False

        try:
            wait_until(holds, f"{path} answering {status}")
        except AssertionError as error:
            error.add_note(f"The log of the service:\n{self.log.read_text()}")
            raise
        return self.client.get(path)


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A context manager that starts `bentoml serve` with these settings and waits until it listens."""

    @contextmanager
    def start(host: str = "127.0.0.1", **settings: object) -> Iterator[Service]:
        folder = tmp_path_factory.mktemp("service")
        port = free_port()
        environment = {
            # An empty setting counts as unset: only the settings of this call apply, not the developer's.
            **{name: "" for name in os.environ if name.startswith("SERVING_")},
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(folder / "bentoml"),
            "SERVING_CACHE_DIR": str(folder / "cache"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/none.db",
            **{name: str(value) for name, value in settings.items()},
        }
        command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Digits"]
        command += ["--host", host, "--port", str(port)]
        address = f"[{host}]" if ":" in host else host
        with (
            running(command, environment, folder / "log") as process,
            httpx.Client(base_url=f"http://{address}:{port}", timeout=60) as client,
        ):
            service = Service(str(client.base_url), folder / "log", client, process)
            service.wait_for(200, "/livez")
            yield service

    return start


@pytest.fixture(scope="session")
def service(start_service: Callable[..., Any], model_file: Path) -> Iterator[Service]:
    """The service with the default settings and the trained model, ready."""
    with start_service(SERVING_MODEL=model_file) as ready:
        ready.wait_for(200)
        yield ready


@pytest.fixture
def variant(model_file: Path, tmp_path: Path) -> Callable[[Callable[[onnx.ModelProto], None]], Path]:
    """Write a copy of the trained model that was changed in some way, and return its path."""

    def write(change: Callable[[onnx.ModelProto], None], name: str = "variant.onnx") -> Path:
        model = onnx.load(model_file)
        change(model)
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write


@pytest.fixture(scope="session")
def colour_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of contract version 2 for colour pictures of 32x32 pixels, with four classes."""
    return write_model(tmp_path_factory.mktemp("colour") / "colour.onnx", COLOUR)


@pytest.fixture
def version_1(variant: Callable[..., Path]) -> Path:
    """The trained model in contract version 1, whatever the pipeline writes today."""

    def change(model: onnx.ModelProto) -> None:
        for name in ("subset", *NAMED_DIGITS):
            set_metadata(model, name, None)
        for name, value in (("data", "tenth"), ("contract", "1")):
            set_metadata(model, name, value)

    return variant(change, "version-1.onnx")


@pytest.fixture
def version_2(variant: Callable[..., Path]) -> Path:
    """The trained model in contract version 2, with names for its classes."""

    def change(model: onnx.ModelProto) -> None:
        set_metadata(model, "data", None)
        for name, value in {**metadata_of(NAMED_DIGITS), "subset": "full", "contract": "2"}.items():
            set_metadata(model, name, value)

    return variant(change, "version-2.onnx")


@dataclass(frozen=True)
class Swap:
    """A file to serve, and two models of which it holds one; `versions` are the names that the service gives them."""

    served: Path
    models: tuple[Path, Path]

    @property
    def versions(self) -> list[str]:
        return [Model.load(path).digest[:12] for path in self.models]

    def put(self, which: int) -> None:
        """Put one of the models in the other's place, in one step."""
        shutil.copyfile(self.models[which], self.served.with_name("next"))
        self.served.with_name("next").replace(self.served)


@pytest.fixture
def swap(variant: Callable[..., Path], model_file: Path, tmp_path: Path) -> Swap:
    """The trained model, of the recipe "quick", and the same under the recipe "other"; the first is in its place."""
    other = variant(lambda model: set_metadata(model, "recipe", "other"), "other.onnx")
    swap = Swap(tmp_path / "served.onnx", (model_file, other))
    swap.put(0)
    return swap


def set_metadata(model: onnx.ModelProto, name: str, value: str | None) -> None:
    """Change one entry of the metadata, or delete it when `value` is None."""
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    kept.pop(name, None)
    onnx.helper.set_model_props(model, kept if value is None else {**kept, name: value})


@pytest.fixture
def bentoml_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let `caplog` see the service's lines: BentoML does not hand them on to the root logger."""
    logger = logging.getLogger("bentoml.digits")
    level = logger.level
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    propagates = logger.propagate
    logger.propagate = False
    yield
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
    logger.propagate = propagates


@pytest.fixture
def _registry_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The store tells MLflow where the registry is, and libraries what to log, for the whole process."""
    # The pipeline sets the level of MLflow's module for databases, in tests that ran before.
    loggers = [logging.getLogger(name) for name in (*NOISY, "mlflow.store.db.utils")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.NOTSET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    yield
    mlflow.set_tracking_uri("")
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """An MLflow database with an empty registry."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    shutil.copy(empty_store, path)
    MlflowClient(f"sqlite:///{path}").create_registered_model("digits")
    return path


@pytest.fixture
def registry(
    _registry_is_forgotten: None, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Registry(uri, MlflowClient(uri), tmp_path / "artifacts")


@pytest.fixture
def settings(_registry_is_forgotten: None, tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", poll_seconds=0.1)


@pytest.fixture
def newer(variant: Callable[..., Path]) -> Path:
    """The same network, said to be of another recipe."""
    return variant(lambda model: set_metadata(model, "recipe", "newer"), "newer.onnx")


@pytest.fixture
def broken(variant: Callable[..., Path]) -> Path:
    return variant(lambda model: set_metadata(model, "contract", "0"), "broken.onnx")
