"""The training side: MNIST in, a proven and promoted ONNX model out."""

import os

__version__ = "0.1.0"  # as in pyproject.toml; a test holds them equal

DELIVERY = "delivery to MLflow"  # the name of the thread that sends reports

# MLflow and ONNX Runtime report their use to their makers otherwise; they read these variables when they are imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class PipelineError(Exception):
    """An error that users can correct: the message is one sentence with the remedy."""

    exit_code = 1
