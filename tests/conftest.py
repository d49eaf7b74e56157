"""Shared fixtures: the bundled digits, and a model that was trained on them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does, before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from filelock import FileLock
from mlflow import MlflowClient
from numpy.typing import NDArray

from pipeline import evaluation, export
from pipeline.data import mnist
from pipeline.data.dataset import MNIST, DataSet
from pipeline.networks import Network, build
from tests.processes import ROOT, mlflow_server
from tests.trained import ALIKE, TRAINED

CPU = torch.device("cpu")
SLOW = {"full_mnist", "mlflow_url", "start_service", "registry", "empty_store", "trained"}  # fixtures


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate each test from the settings of the developer's environment."""
    for name in os.environ:
        if name.startswith(("PIPELINE_", "SERVING_", "MLFLOW_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="module")
def _own_address() -> None:
    """MLflow writes its address into the environment of its process: fixtures of a module do not find a former one."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def tenth() -> DataSet:
    return mnist.load("tenth", None, Path("unused"))


@pytest.fixture(scope="session")
def full_mnist() -> DataSet:
    """The full MNIST of MNIST_DIR; tests that ask for it are marked `full`."""
    return mnist.load("full", Path(os.environ["MNIST_DIR"]), Path("unused"))


@pytest.fixture(scope="session")
def test_digits(tenth: DataSet) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """1,000 real test digits: uint8 [1000, 28, 28] and int64 [1000]."""
    digits = tenth.read_test()
    return digits.images.numpy(), digits.labels.numpy()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a file once for all processes that run the tests: `once(name, make)` returns its path."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def path_of(name: str, make: Callable[[Path], object]) -> Path:
        made, unfinished = folder / f"made-{name}", folder / f"unfinished-{name}"
        with FileLock(folder / f"{name}.lock"):
            if not made.exists():
                unfinished.mkdir()
                make(unfinished / name)
                unfinished.rename(made)
        return made / name

    return path_of


@pytest.fixture(scope="session")
def trained(once: Callable[..., Path]) -> Path:
    """The weights of a network trained on the tenth."""

    def make(to: Path) -> None:
        command = [sys.executable, "-m", "tests.trained", str(to)]
        subprocess.run(command, cwd=ROOT, env=os.environ | ALIKE, check=True)

    return once("network.pt", make)


@pytest.fixture(scope="session")
def network(trained: Path) -> Network:
    network = build(TRAINED.network, MNIST)
    network.load_state_dict(torch.load(trained))
    return network.eval()


@pytest.fixture(scope="session")
def model_file(once: Callable[..., Path], network: Network, tenth: DataSet) -> Path:
    """A trained and proven `model.onnx`."""

    def make(file: Path) -> None:
        validation = evaluation.evaluate(network, tenth.validation)
        metadata = {
            "run_id": "0" * 32,
            "recipe": "quick",
            "subset": "tenth",
            "data_source": "bundled tenth",
            "data_digest": tenth.digest,
            "code_digest": "0" * 64,
            "fingerprint": "0" * 64,
            "validation_accuracy": f"{validation.accuracy():.6f}",
            "test_accuracy": f"{evaluation.evaluate(network, tenth.read_test()).accuracy():.6f}",
        }
        temperature = evaluation.fit_temperature(validation)
        golden = export.choose_golden(tenth.validation)
        export.export(network, temperature, metadata, golden, [tenth.validation], file)

    return once("model.onnx", make)


@pytest.fixture(scope="session")
def empty_store(once: Callable[..., Path]) -> Path:
    """An MLflow database without experiments: made once, because its migrations take seconds."""
    return once("mlflow.db", lambda to: MlflowClient(f"sqlite:///{to}").search_experiments())


@pytest.fixture
def state(empty_store: Path, tmp_path: Path) -> Path:
    """A state folder for commands, with an MLflow database in it."""
    (tmp_path / "state").mkdir()
    shutil.copy(empty_store, tmp_path / "state" / "mlflow.db")
    return tmp_path / "state"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of benchmarks, servers and trained models as slow; skip the full set without MNIST_DIR, visibly."""
    for item in items:
        if "benchmarks" in item.path.parts or not SLOW.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("full") and not os.environ.get("MNIST_DIR"):
            item.add_marker(pytest.mark.skip(reason="set MNIST_DIR to test on the full MNIST"))


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """A real MLflow server."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_store, folder / "mlflow.db")
    with mlflow_server(folder) as url:
        yield url
