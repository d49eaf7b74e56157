"""The training side: MNIST in, a proven and promoted ONNX model out."""

__version__ = "0.1.0"


class PipelineError(Exception):
    """What users can put right themselves: the message is one sentence that says what to do."""

    exit_code = 1
