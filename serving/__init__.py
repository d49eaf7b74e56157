"""Serves the champion: a BentoML service around one ONNX file, without PyTorch."""

__version__ = "0.1.0"
