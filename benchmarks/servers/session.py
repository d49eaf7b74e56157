"""The same model for every server: BENCHMARK_MODEL names the file, ONNX Runtime gets one thread."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def open_session(file: str = "") -> onnxruntime.InferenceSession:
    """Load the model, from that file or the one that BENCHMARK_MODEL names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        Path(file or os.environ["BENCHMARK_MODEL"]).read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def predict(session: onnxruntime.InferenceSession, images: Any) -> Any:
    """Probabilities, float32 [n, 10], of images, uint8 [n, 28, 28]."""
    return session.run(["probabilities"], {"images": images})[0]


def answers(probabilities: Any) -> list[dict[str, Any]]:
    """The answer as Python objects, one for each image, with what ours has in it."""
    digits = np.argmax(probabilities, axis=1).tolist()
    return [
        {"digit": digit, "confidence": row[digit], "probabilities": row}
        for digit, row in zip(digits, probabilities.tolist(), strict=True)
    ]
