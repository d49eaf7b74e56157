"""FastAPI in its usual form: Pydantic models for body and answer, and endpoints that FastAPI runs in threads."""

from typing import Annotated

import numpy as np
from fastapi import Body, FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from benchmarks.servers.session import answers, open_session, predict

session = open_session()
app = FastAPI()


class Images(BaseModel):
    """The body of a request."""

    images: list[list[list[Annotated[int, Field(ge=0, le=255)]]]]


class Digit(BaseModel):
    """The answer for one image."""

    digit: int
    confidence: float
    probabilities: list[float]


@app.post("/predict")
def predict_json(body: Images) -> list[Digit]:
    """Answer `{"images": [...]}`."""
    return answer(np.array(body.images, np.uint8))


@app.post("/predict/raw")
def predict_raw(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> list[Digit]:
    """Answer a body of 784 bytes per image."""
    return answer(np.frombuffer(body, np.uint8).reshape(-1, 28, 28))


def answer(images: NDArray[np.uint8]) -> list[Digit]:
    """Run the model."""
    return [Digit(**digit) for digit in answers(predict(session, images))]
