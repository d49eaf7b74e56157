"""Commands in this process, and a model that is fitted in a moment."""

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.__main__ import main
from pipeline.data.dataset import DataSet


@dataclass(frozen=True)
class Done:
    """Exit code, log lines and standard output of a command."""

    returncode: int
    log: list[str]
    stdout: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """Run a command in this process."""
    before = mlflow.get_tracking_uri(), signal.getsignal(signal.SIGTERM)

    def run(*arguments: str, **environment: str) -> Done:
        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, logger="pipeline"):
            # MLflow sets the variable of its address in this process: empty, it means the embedded store.
            for name, value in {"MLFLOW_TRACKING_URI": "", **environment}.items():
                patch.setenv(name, value)
            code = main([*arguments])
        return Done(code, caplog.messages, capsys.readouterr().out)

    yield run
    mlflow.set_tracking_uri(before[0])
    signal.signal(signal.SIGTERM, before[1])


@pytest.fixture(scope="session")
def linear_model(tmp_path_factory: pytest.TempPathFactory, tenth: DataSet) -> Path:
    """A file that keeps the contract: a linear classifier, fitted by least squares."""
    pixels = tenth.train.images.numpy().reshape(-1, 784).astype(np.float64)
    targets = np.eye(10)[tenth.train.labels.numpy()]
    weights = np.linalg.solve(pixels.T @ pixels + 1e6 * np.eye(784), pixels.T @ targets).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["pixels", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"]),
        ],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    file = tmp_path_factory.mktemp("linear") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file
