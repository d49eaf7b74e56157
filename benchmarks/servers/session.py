"""The model of every server: the ONNX file named by BENCHMARK_MODEL, run by ONNX Runtime with one thread."""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def open_session(file: str = "") -> onnxruntime.InferenceSession:
    """Load `file`, or the ONNX file named by BENCHMARK_MODEL."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        Path(file or os.environ["BENCHMARK_MODEL"]).read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def predict(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities, float32 [n, 10], of images, uint8 [n, 28, 28]."""
    return cast(NDArray[np.float32], session.run(["probabilities"], {"images": images})[0])


def answers(probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The answer as Python objects, one for each image, with the same fields as ours."""
    digits = np.argmax(probabilities, axis=1).tolist()
    return [
        {"digit": digit, "confidence": row[digit], "probabilities": row}
        for digit, row in zip(digits, probabilities.tolist(), strict=True)
    ]
