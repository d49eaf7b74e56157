"""Starlette with our decoder, batching and encoder: ours without BentoML and without its metrics."""

import gc
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.contract import Images
from serving.decoding import arrays as images
from serving.errors import RequestError
from serving.inference.batching import Batcher
from serving.model.onnx_file import Model
from serving.model.store import Served
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from serving.web.answers import encode

settings = Settings()
served = Served(Model.load(Path(os.environ["BENCHMARK_MODEL"])), "1", "file", "")
batcher = Batcher(lambda: served, settings.queue_images, Metrics())


async def predict_json(request: Request) -> Response:
    """Answer `{"images": [...]}`."""
    return await answer(images.from_json(await request.body(), settings.max_images))


async def predict_raw(request: Request) -> Response:
    """Answer a body of 784 bytes per image."""
    return await answer(images.from_raw(await request.body(), settings.max_images))


async def answer(decoded: Images) -> Response:
    """Queue the images and wait for the batch that contains them."""
    return Response(encode((await batcher.submit(decoded)).probabilities), media_type="application/json")


async def refuse(request: Request, error: Exception) -> Response:
    """Answer a bad request with its error sentence."""
    assert isinstance(error, RequestError)
    return JSONResponse({"error": error.sentence}, error.status)


app = Starlette(
    routes=[
        Route("/predict", predict_json, methods=["POST"]),
        Route("/predict/raw", predict_raw, methods=["POST"]),
    ],
    exception_handlers={RequestError: refuse},
)
# The garbage collector settings of our service.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 100)
