"""The model in service: its ONNX file, its source (a file or the registry), and swaps."""
