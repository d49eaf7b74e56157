"""The training side: MNIST in, a proven and promoted ONNX model out."""

__version__ = "0.1.0"  # as in pyproject.toml; a test holds them equal


class PipelineError(Exception):
    """An error that users can correct: the message is one sentence with the remedy."""

    exit_code = 1
