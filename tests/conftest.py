"""Shared fixtures: the bundled digits, and a model that was trained on them."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does, before torch is imported
import torch
from numpy.typing import NDArray

from pipeline import evaluation, export
from pipeline.data import mnist as data
from pipeline.data.dataset import DataSet
from pipeline.networks import Network
from pipeline.recipes import RECIPES
from pipeline.training.loop import train
from pipeline.training.run import Run
from tests.processes import mlflow_server

CPU = torch.device("cpu")
# Good enough for tests in seconds: without augmentation and averaging the network learns the tenth fast.
QUICK = replace(RECIPES["chapter"], name="quick", batch_size=64, learning_rate=3e-3, one_cycle=True)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate each test from the settings of the developer's environment."""
    for name in os.environ:
        if name.startswith(("PIPELINE_", "SERVING_", "MLFLOW_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tenth() -> DataSet:
    return data.load("tenth", None, Path("unused"))


@pytest.fixture(scope="session")
def full_mnist() -> DataSet:
    """The full MNIST of MNIST_DIR; tests that ask for it are marked `full`."""
    return data.load("full", Path(os.environ["MNIST_DIR"]), Path("unused"))


@pytest.fixture(scope="session")
def test_digits(tenth: DataSet) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """1,000 real test digits: uint8 [1000, 28, 28] and int64 [1000]."""
    digits = tenth.read_test()
    return digits.images.numpy(), digits.labels.numpy()


@pytest.fixture(scope="session")
def network(tenth: DataSet) -> Network:
    return train(Run(replace(QUICK, epochs=4), 1, tenth, CPU)).network


@pytest.fixture(scope="session")
def model_file(network: Network, tenth: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and proven `model.onnx`."""
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    validation = evaluation.evaluate(network, tenth.validation)
    metadata = {
        "run_id": "0" * 32,
        "recipe": "quick",
        "data": "tenth",
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
    return file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests on the full set without MNIST_DIR; the summary lists them."""
    if not os.environ.get("MNIST_DIR"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="set MNIST_DIR to test on the full MNIST"))


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url
