"""`mlflow models serve`, as documented: `python -m benchmarks.servers.documented_mlflow FOLDER PORT`.

Writes the ONNX file of BENCHMARK_MODEL to FOLDER as an MLflow model, then becomes MLflow's server.
"""

import os
import sys

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

if __name__ == "__main__":
    folder, port = sys.argv[1:]
    mlflow.onnx.save_model(
        onnx.load(os.environ["BENCHMARK_MODEL"]),
        folder,
        signature=ModelSignature(Schema([TensorSpec(np.dtype("uint8"), (-1, 28, 28), "images")])),
        onnx_execution_providers=["CPUExecutionProvider"],
        onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        save_as_external_data=False,
        pip_requirements=[],
    )
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", folder, "--env-manager", "local"]
    os.execv(sys.executable, [*serve, "--host", "127.0.0.1", "--port", port, "--workers", "1"])  # noqa: S606
