"""A swap to another shape between the decoding of a request and its call of the model, made certain."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from serving.inference.batching import Batcher
from serving.inference.explain import Explainer
from serving.model.onnx_file import Model
from serving.model.store import Served
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from serving.web.routes import ShortPath
from tests.serving.asking import RAW, png
from tests.serving.handmade import COLOUR, pictures

Digits = tuple[np.ndarray, np.ndarray]
SENTENCE = (
    "the model was replaced while the request waited, and images of shape [28, 28] do not fit the new one, which takes "
    '[32, 32, 3]; expected {"images": [...]}, each image 32 rows of 32 pixels, each 3 integers from 0 to 255.'
)


class Swapping:
    """A store whose model is MNIST's until the first images are decoded; batcher and explainer have the next one."""

    problem = None

    def __init__(self, first: Served, second: Served, reads: int) -> None:
        self._models = [first] * reads + [second]

    @property
    def current(self) -> Served:
        return self._models.pop(0) if len(self._models) > 1 else self._models[0]


@pytest.fixture
def ask(model_file: Path, colour_file: Path) -> Callable[..., httpx.Response]:
    """Send a request; `reads` is how many times the store still has MNIST's model."""
    digits = Served(Model.load(model_file), "1", "a test", "today")
    signs = Served(Model.load(colour_file), "2", "a test", "today")

    def send(path: str, reads: int, **body: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            metrics = Metrics()
            batcher, explainer = Batcher(lambda: signs, 100, metrics), Explainer(lambda: signs, 1)
            store = Swapping(digits, signs, reads)
            parts = SimpleNamespace(metrics=metrics, store=store, batcher=batcher, explainer=explainer)
            transport = httpx.ASGITransport(app=ShortPath(_nothing, Settings(), parts))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.post(path, **body)
            assert batcher.waiting == 0
            batcher.close()
            explainer.close()
            return answer

        return asyncio.run(asyncio.wait_for(run(), 60))

    return send


async def _nothing(*_: Awaitable[None]) -> None:
    raise AssertionError


@pytest.mark.parametrize("path", ["/predict", "/predict/raw", "/explain"])
def test_decoded_images_are_refused_with_the_shape_expected_now(
    ask: Callable[..., httpx.Response], test_digits: Digits, path: str
) -> None:
    images = test_digits[0][:1]
    body: dict[str, Any] = {"json": {"images": images.tolist()}}
    if path == "/predict/raw":
        body = {"content": images.tobytes(), "headers": RAW}
    answer = ask(path, 2, **body)
    assert answer.status_code == 422, answer.text
    assert orjson.loads(answer.content) == {"error": SENTENCE}


@pytest.mark.parametrize("path", ["/predict/files", "/explain"])
def test_pictures_are_decoded_again_for_the_new_model(
    ask: Callable[..., httpx.Response], test_digits: Digits, path: str
) -> None:
    answer = ask(path, 2, files={"files": png(test_digits[0][0])})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-version"] == "2"
    (found,) = answer.json() if path == "/predict/files" else [answer.json()]
    assert found["label"] in COLOUR["classes"]


def test_answer_of_another_version_than_wanted_is_refused(ask: Callable[..., httpx.Response]) -> None:
    body = {"files": png(pictures(COLOUR, 1)[0])}
    answer = ask("/predict/files", 2, files=body, headers={"X-Model-Version": "1"})  # of the model when it arrived
    assert answer.status_code == 409, answer.text


def test_images_that_fit_the_new_model_are_answered(ask: Callable[..., httpx.Response]) -> None:
    answer = ask("/predict", 1, json={"images": pictures(COLOUR, 3).tolist()})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) == 3
