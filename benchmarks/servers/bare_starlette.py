"""The least that somebody could write by hand: Starlette and orjson, no validation, no batching, no metrics."""

import numpy as np
import orjson
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
    """Answer 784 bytes an image."""
    return answer(np.frombuffer(await request.body(), np.uint8).reshape(-1, 28, 28))


def answer(images: np.ndarray) -> Response:
    """Ask the model on the event loop: on one core a thread would only cost."""
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
