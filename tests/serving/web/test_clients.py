"""BentoML's clients call `predict` as their documentation shows."""

import asyncio
from collections.abc import Callable
from typing import Any

import bentoml
import numpy as np
import pytest
from bentoml.exceptions import BentoMLException, ServiceUnavailable

from tests.serving.asking import ask
from tests.serving.conftest import Service

Digits = tuple[np.ndarray, np.ndarray]


def test_client_calls_predict_by_name_and_by_position(service: Service, test_digits: Digits) -> None:
    images = test_digits[0][:3]
    expected = ask(service, "/predict", images).json()
    with bentoml.SyncHTTPClient(service.url) as client:
        assert client.is_ready()
        assert client.predict(images=images.tolist()) == expected
        assert client.predict(images.tolist()) == expected
        assert client.call("predict", images=images.tolist()) == expected


def test_asynchronous_client_calls_predict_concurrently(service: Service, test_digits: Digits) -> None:
    images = test_digits[0][:20]
    expected = ask(service, "/predict", images).json()

    async def answers() -> list[Any]:
        async with bentoml.AsyncHTTPClient(service.url) as client:
            assert await client.is_ready()
            return list(await asyncio.gather(*(client.predict(images=[image.tolist()]) for image in images)))

    found = asyncio.run(answers())
    assert [one["digit"] for (one,) in found] == [one["digit"] for one in expected]


def test_client_raises_refusals_with_status_and_sentence(service: Service) -> None:
    with bentoml.SyncHTTPClient(service.url) as client:
        with pytest.raises(BentoMLException, match=r"images\[0\]\[0\]\[0\] is 300") as refused:
            client.predict(images=[[[300] * 28] * 28])
        assert refused.value.error_code == 422
        with pytest.raises(TypeError, match="pictures"):
            client.predict(pictures=[])


def test_client_raises_unavailable_without_a_model(
    start_service: Callable[..., Any], tmp_path: Any, test_digits: Digits
) -> None:
    with (
        start_service(SERVING_MODEL=tmp_path / "none.onnx") as service,
        bentoml.SyncHTTPClient(service.url, server_ready_timeout=0) as client,
    ):
        assert not client.is_ready()
        with pytest.raises(ServiceUnavailable, match="no model is in service"):
            client.predict(images=test_digits[0][:1].tolist())
