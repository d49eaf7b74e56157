"""For `mlflow models serve`, write BENCHMARK_MODEL as its model: `python -m benchmarks.servers.mlflow_model FOLDER`."""

import os
import sys

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

if __name__ == "__main__":
    mlflow.onnx.save_model(
        onnx.load(os.environ["BENCHMARK_MODEL"]),
        sys.argv[1],
        signature=ModelSignature(Schema([TensorSpec(np.dtype("uint8"), (-1, 28, 28), "images")])),
        onnx_execution_providers=["CPUExecutionProvider"],
        onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        save_as_external_data=False,
        pip_requirements=[],
    )
