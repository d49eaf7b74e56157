"""Serves the champion: a BentoML service around one ONNX file, without PyTorch."""
