"""A service's answers to a whole test split, against PyTorch's probabilities."""

import io
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

RAW = {"Content-Type": "application/octet-stream"}
Answers = list[dict[str, Any]]


def predict(service: str, images: NDArray[np.uint8], per_request: int = 1000) -> Answers:
    """Send pictures [n, …] as raw pixels."""
    answers: Answers = []
    with httpx.Client(base_url=service, timeout=60) as client:
        for start in range(0, len(images), per_request):
            body = images[start : start + per_request].tobytes()
            response = client.post("/predict/raw", content=body, headers=RAW)
            assert response.status_code == 200, response.text
            assert response.headers["X-Model-Version"]
            answers += response.json()
    return answers


def assert_equals_torch(answers: Answers, predictions: bytes, images: int, classes: int) -> None:
    """Compare with a run's `predictions/test.npz`: every label, and every probability within 1e-4."""
    expected = np.load(io.BytesIO(predictions))["probabilities"]
    served = np.array([answer["probabilities"] for answer in answers])
    assert served.shape == expected.shape == (images, classes)
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-4)
    assert [answer["class"] for answer in answers] == expected.argmax(axis=1).tolist()
