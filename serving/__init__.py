"""Serves the champion: a BentoML service around one ONNX file, without PyTorch."""

import os

__version__ = "0.1.0"

# MLflow and ONNX Runtime report their use to their makers otherwise; they read these variables when they are imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
