"""A minimal hand-written server: Starlette and orjson, without validation, batching or metrics."""

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.servers.session import open_session, predict

session = open_session()


async def predict_json(request: Request) -> Response:
    """Answer `{"images": [...]}`."""
    return answer(np.asarray(orjson.loads(await request.body())["images"], np.uint8))


async def predict_raw(request: Request) -> Response:
    """Answer a body of 784 bytes per image."""
    return answer(np.frombuffer(await request.body(), np.uint8).reshape(-1, 28, 28))


def answer(images: NDArray[np.uint8]) -> Response:
    """Run the model on the event loop: on one core a thread only adds context switches."""
    probabilities = predict(session, images)
    digits = [
        {"digit": digit, "confidence": row[digit], "probabilities": row}
        for digit, row in zip(probabilities.argmax(1).tolist(), probabilities, strict=True)
    ]
    return Response(orjson.dumps(digits, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


app = Starlette(
    routes=[
        Route("/predict", predict_json, methods=["POST"]),
        Route("/predict/raw", predict_raw, methods=["POST"]),
    ]
)
