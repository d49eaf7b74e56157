import asyncio
import base64
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from serving.decoding.pictures import from_pictures
from serving.errors import RequestError
from serving.inference.batching import NoModelError, OverloadedError
from serving.inference.explain import QUEUE, SQUARE, Explainer, feature_maps, saliency
from serving.model.onnx_file import Model
from serving.model.store import Served
from tests.serving.conftest import Service
from tests.serving.decoding.test_pictures import encoded, enlarged

Digits = tuple[np.ndarray, np.ndarray]
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def model(model_file: Path) -> Model:
    return Model.load(model_file)


@pytest.fixture(scope="module")
def unpruned(model_file: Path) -> onnxruntime.InferenceSession:
    """The exported file with all outputs."""
    return onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])


@pytest.fixture
def mapless(variant: Callable[..., Path]) -> Path:
    """A model without feature maps."""

    def cut(model: onnx.ModelProto) -> None:
        kept = [output for output in model.graph.output if output.name == "probabilities"]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return variant(cut)


def served(model: Model, version: str = "1") -> Served:
    return Served(model, version, "a test", "2026-01-31T12:00:00+00:00")


def explained(service: Service, image: np.ndarray) -> dict[str, Any]:
    answer = service.client.post("/explain", json={"images": [image.tolist()]})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def maps_of(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    """Decode the feature maps as a client does: float32 `[channels, height, width]` by layer."""
    return {
        layer["name"]: np.frombuffer(base64.b64decode(layer["values"]), np.uint8).reshape(layer["shape"])
        * np.float32(layer["largest"] / 255)
        for layer in answer["feature_maps"]
    }


def test_explanation_agrees_with_predict(service: Service, test_digits: Digits) -> None:
    for image, label in zip(test_digits[0][:20], test_digits[1][:20], strict=True):
        answer = explained(service, image)
        (predicted,) = service.client.post("/predict", json={"images": [image.tolist()]}).json()
        assert answer["image"] == image.tolist()
        assert answer["digit"] == predicted["digit"]
        assert np.abs(np.array(answer["probabilities"]) - predicted["probabilities"]).max() < 1e-5
        assert answer["confidence"] == max(answer["probabilities"])
        assert answer["digit"] == label or not answer["sure"]


def test_picture_is_prepared_as_in_predict_files(service: Service, test_digits: Digits) -> None:
    page = np.pad(255 - enlarged(test_digits[0][0]), ((0, 300), (200, 10)), constant_values=255)
    files = [("files", ("a.png", encoded(page)))]
    answer = service.client.post("/explain", files=files)
    assert answer.headers["x-model-version"] == service.client.get("/model").json()["version"]
    assert answer.json()["image"] == from_pictures([encoded(page)], page.size)[0].tolist()
    (predicted,) = service.client.post("/predict/files", files=files).json()
    assert answer.json()["digit"] == predicted["digit"] == test_digits[1][0]
    assert answer.json()["confidence"] == pytest.approx(predicted["confidence"], abs=1e-5)


def test_feature_maps_match_the_unpruned_file(
    service: Service, unpruned: onnxruntime.InferenceSession, test_digits: Digits
) -> None:
    image = test_digits[0][3]
    found = maps_of(explained(service, image))
    names = ["conv1", "conv2"]
    assert list(found) == names
    for name, output in zip(names, unpruned.run(names, {"images": image[None]}), strict=True):
        expected = np.asarray(output)
        assert found[name].shape == expected[0].shape
        assert np.abs(found[name] - expected[0]).max() <= expected.max() / 255 * 0.51
        assert found[name].max() == pytest.approx(expected.max(), rel=1e-5)


def test_explanation_stays_below_100_kilobytes(service: Service, test_digits: Digits) -> None:
    for image in test_digits[0][:20]:
        answer = service.client.post("/explain", json={"images": [image.tolist()]})
        assert [layer["shape"] for layer in answer.json()["feature_maps"]] == [[32, 28, 28], [64, 14, 14]]
        assert len(answer.content) <= 100_000


def test_saliency_is_the_mean_drop_over_covering_squares(model: Model, test_digits: Digits) -> None:
    image = test_digits[0][2]
    probabilities, found = saliency(model.predict, image)
    digit = probabilities.argmax()

    def odds(of: np.ndarray) -> float:
        row = model.predict(of[None])[0].astype(float)
        return float(np.log(row[digit] / np.delete(row, digit).sum()))

    for y, x in ((0, 0), (14, 14), (9, 20), (27, 13)):
        drops = []
        for top in range(y - SQUARE + 1, y + 1):
            for left in range(x - SQUARE + 1, x + 1):
                if top % 2 == left % 2 == 0:
                    covered = image.copy()
                    covered[max(top, 0) : top + SQUARE, max(left, 0) : left + SQUARE] = 0
                    drops.append(odds(image) - odds(covered))
        assert found[y, x] == pytest.approx(np.mean(drops), abs=1e-2)
    assert np.abs(found).max() > 0.1


def test_removing_the_most_salient_ink_lowers_confidence_more(model: Model, test_digits: Digits) -> None:
    """Removing the most salient quarter of the ink lowers the confidence more than removing the least salient one."""
    worse = 0
    for image in test_digits[0][:30]:
        probabilities, found = saliency(model.predict, image)
        digit = probabilities.argmax()
        inked = np.flatnonzero(image)
        ordered = inked[np.argsort(found.ravel()[inked])]
        quarter = len(ordered) // 4
        without = np.stack([image.ravel()] * 2)
        without[0, ordered[-quarter:]] = 0
        without[1, ordered[:quarter]] = 0
        confidence = model.predict(without.reshape(2, 28, 28))[:, digit]
        worse += int(confidence[0] < confidence[1])
    assert worse >= 25


BLANK = [[0] * 28] * 28


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"json": {"images": [BLANK]}}, 422, "the image has no ink"),
        ({"json": {"images": []}}, 422, "images is empty"),
        ({"json": {"images": [BLANK] * 2}}, 422, "2 images are too many to explain at once; expected exactly one"),
        ({"content": b"{", "headers": JSON}, 400, "the body is not JSON"),
        ({"content": bytes(784), "headers": {"content-type": "application/octet-stream"}}, 415, "multipart/form-data"),
        ({"files": {"files": b"a text"}}, 415, "is not a picture"),
        ({"files": {"files": encoded(Image.new("L", (90, 60), 255))}}, 422, "is blank"),
        ({"files": {"picture": b"a text"}}, 422, "has a field picture"),
    ],
)
def test_bad_request_gets_its_status_and_one_sentence(
    service: Service, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = service.client.post("/explain", **request_)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert answer.json()["error"].endswith(".")


def test_several_pictures_are_refused(service: Service, test_digits: Digits) -> None:
    files = [("files", ("a.png", encoded(test_digits[0][0])))] * 2
    answer = service.client.post("/explain", files=files)
    assert answer.status_code == 422
    assert "2 images are too many" in answer.json()["error"]


def test_model_without_feature_maps_predicts_and_explain_returns_501(
    start_service: Callable[..., Any], mapless: Path, test_digits: Digits
) -> None:
    body = {"images": test_digits[0][:1].tolist()}
    with start_service(SERVING_MODEL=mapless) as service:
        service.wait_for(200)
        assert service.client.post("/predict", json=body).json()[0]["digit"] == test_digits[1][0]
        answer = service.client.post("/explain", json=body)
        assert answer.status_code == 501
        assert "has no feature maps; /predict answers, /explain cannot." in answer.json()["error"]
        assert 'digits_rejected_total{reason="no_feature_maps"} 1.0' in service.client.get("/metrics").text


def test_explain_returns_503_without_a_model(start_service: Callable[..., Any]) -> None:
    with start_service(SERVING_MODEL="/nowhere/model.onnx") as service:
        answer = service.client.post("/explain", json={"images": [[[255] * 28] * 28]})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"


def test_explain_overload_returns_503_and_predictions_continue(service: Service, test_digits: Digits) -> None:
    body = {"images": test_digits[0][:1].tolist()}
    with ThreadPoolExecutor(3 * QUEUE) as clients:
        asking = [clients.submit(service.client.post, "/explain", json=body) for _ in range(12 * QUEUE)]
        predicted = [service.client.post("/predict", json=body).status_code for _ in range(20)]
        answers: list[httpx.Response] = [each.result() for each in asking]
    assert set(predicted) == {200}
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1"
            assert "explanations are already waiting" in answer.json()["error"]
    assert service.client.post("/explain", json=body).status_code == 200


def test_feature_map_session_opens_on_first_explanation(model: Model, test_digits: Digits) -> None:
    explainer = Explainer(lambda: served(model), 1)

    def session() -> onnxruntime.InferenceSession | None:
        return explainer._opened[1] if explainer._opened else None

    assert session() is None
    assert [node.name for node in model._session.get_outputs()] == ["probabilities"]

    async def explain() -> None:
        await explainer.submit(lambda: test_digits[0][:1])

    asyncio.run(explain())
    first = session()
    assert first is not None
    assert [node.name for node in first.get_outputs()] == ["conv1", "conv2"]
    asyncio.run(explain())
    assert session() is first
    explainer.close()


def test_feature_map_session_follows_the_model_in_service(model_file: Path, test_digits: Digits) -> None:
    current = served(Model.load(model_file), "1")
    explainer = Explainer(lambda: current, 1)

    async def explain() -> str:
        return (await explainer.submit(lambda: test_digits[0][:1]))[1]

    assert asyncio.run(explain()) == "1"
    current = served(Model.load(model_file), "2")
    assert asyncio.run(explain()) == "2"
    assert explainer._opened
    assert explainer._opened[0] is current.model
    explainer.close()


def test_full_queue_and_missing_model_raise_different_errors(model: Model, test_digits: Digits) -> None:
    free = threading.Event()
    explainer = Explainer(lambda: served(model), 1)
    absent = Explainer(lambda: None, 1)

    def decode() -> np.ndarray:
        free.wait(60)
        return test_digits[0][:1]

    async def fill() -> None:
        asked = [explainer.submit(decode) for _ in range(QUEUE)]
        with pytest.raises(OverloadedError):
            explainer.submit(decode)
        free.set()
        await asyncio.gather(*asked)
        await explainer.submit(decode)  # the queue has room again
        with pytest.raises(NoModelError):
            await absent.submit(decode)
        with pytest.raises(RequestError, match="2 images"):
            await explainer.submit(lambda: test_digits[0][:2])
        await explainer.submit(decode)  # a refused request leaves the queue, too

    asyncio.run(fill())
    explainer.close()
    absent.close()


def test_feature_maps_without_activation_are_zero(model: Model) -> None:
    def zeros(names: list[str], _inputs: object) -> list[np.ndarray]:
        return [np.zeros((1, 2, 3, 3), np.float32) for _ in names]

    session = create_autospec(onnxruntime.InferenceSession, instance=True)
    session.run.side_effect = zeros
    for layer in feature_maps(session, model, np.zeros((28, 28), np.uint8)):
        assert layer.largest == 0
        assert not layer.values.any()
