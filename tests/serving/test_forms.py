"""A service with a model that is not MNIST's, and swaps between models of different shapes under load."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.model.onnx_file import Model
from tests.processes import wait_until

from .asking import ask, png, sentence, value
from .conftest import NAMES, Service, Swap
from .handmade import COLOUR, pictures

Digits = tuple[np.ndarray, np.ndarray]
IN_COLOUR = "each image 32 rows of 32 pixels, each 3 integers from 0 to 255"
IN_GREY = "each image 28 rows of 28 integers from 0 to 255"
SECONDS_TO_SWAP = 0.1


@pytest.fixture(scope="module")
def colour(start_service: Callable[..., Any], colour_file: Path) -> Iterator[Service]:
    with start_service(SERVING_MODEL=colour_file) as service:
        service.wait_for(200)
        yield service


@pytest.mark.parametrize("route", ["/predict", "/predict/raw"])
@pytest.mark.parametrize("count", [1, 70])
def test_colour_images_are_classified(colour: Service, colour_file: Path, route: str, count: int) -> None:
    images = pictures(COLOUR, count)
    expected = Model.load(colour_file).predict(images)
    answer = ask(colour, route, images)
    assert answer.status_code == 200, answer.text
    answers = answer.json()
    assert [list(one) for one in answers] == [["confidence", "probabilities", "class", "label"]] * count
    assert np.abs(np.array([one["probabilities"] for one in answers]) - expected).max() < 1e-5
    assert [one["class"] for one in answers] == expected.argmax(1).tolist()
    assert [one["label"] for one in answers] == [COLOUR["classes"][best] for best in expected.argmax(1)]
    assert [one["confidence"] for one in answers] == [max(one["probabilities"]) for one in answers]


def test_colour_pictures_of_any_size_are_prepared(colour: Service) -> None:
    images = np.zeros((2, 50, 70, 3), np.uint8)
    images[0, ..., 0] = 255
    images[1, ..., 2] = 255
    whole = np.zeros((2, 32, 32, 3), np.uint8)
    whole[0, ..., 0] = 255
    whole[1, ..., 2] = 255
    found, expected = ask(colour, "/predict/files", images).json(), ask(colour, "/predict", whole).json()
    for one, other in zip(found, expected, strict=True):
        assert np.abs(np.array(one["probabilities"]) - other["probabilities"]).max() < 0.02
    assert found[0]["probabilities"] != found[1]["probabilities"]


def test_images_of_mnist_are_refused_with_the_shape_expected(colour: Service, test_digits: Digits) -> None:
    for route, said in (("/predict", IN_COLOUR), ("/predict/raw", "expected N times 3072 bytes, N at least 1")):
        answer = ask(colour, route, test_digits[0][:1])
        assert answer.status_code == 422
        assert said in sentence(answer)


def test_colour_is_explained(colour: Service) -> None:
    image = pictures(COLOUR, 1)
    answer = colour.client.post("/explain", json={"images": image.tolist()})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    (predicted,) = ask(colour, "/predict", image).json()
    assert {name: found[name] for name in ("class", "label")} == {name: predicted[name] for name in ("class", "label")}
    assert found["image"] == image[0].tolist()
    assert found["feature_maps"][0]["shape"] == [8, 32, 32]
    answer = colour.client.post("/explain", files={"files": png(image[0])})
    assert answer.status_code == 200, answer.text
    assert np.array(answer.json()["image"]).shape == (32, 32, 3)


def test_model_and_document_describe_the_form(colour: Service) -> None:
    described = colour.client.get("/model").json()
    assert {name: described[name] for name in COLOUR} == COLOUR
    document = colour.client.get("/docs.json").json()
    label = document["components"]["schemas"]["Answer"]["properties"]["label"]
    assert label["enum"] == COLOUR["classes"]
    for path, media_types in (("/predict", 1), ("/predict/raw", 1), ("/predict/files", 1), ("/explain", 2)):
        contents = document["paths"][path]["post"]["requestBody"]["content"]
        assert len(contents) == media_types
        for media_type, content in contents.items():
            answer = send(colour, path, media_type, content["example"])
            assert answer.status_code == 200, answer.text


def send(service: Service, path: str, media_type: str, shown: Any) -> httpx.Response:
    if media_type == "application/json":
        return service.client.post(path, json=shown)
    if media_type == "multipart/form-data":
        return service.client.post(path, files=[("files", ("a.bmp", text.encode())) for text in shown["files"]])
    return service.client.post(path, content=shown.encode(), headers={"content-type": media_type})


def test_predictions_are_counted_by_label_alone(colour: Service) -> None:
    before = {label: value(colour, "digits_predictions_total", label=label) for label in COLOUR["classes"]}
    answers = ask(colour, "/predict/raw", pictures(COLOUR, 40)).json()
    counts = Counter(one["label"] for one in answers)
    assert len(counts) > 1
    after = {label: value(colour, "digits_predictions_total", label=label) for label in COLOUR["classes"]}
    assert {label: after[label] - before[label] for label in after} == {label: counts[label] for label in after}
    assert "digits_predicted_total{" not in colour.client.get("/metrics").text


def test_mnist_with_named_classes_has_labels_and_no_digit(
    start_service: Callable[..., Any], version_2: Path, test_digits: Digits
) -> None:
    images, labels = test_digits[0][:20], test_digits[1][:20]
    with start_service(SERVING_MODEL=version_2) as service:
        service.wait_for(200)
        for route in ("/predict", "/predict/files"):
            answers = ask(service, route, images).json()
            assert all("digit" not in one for one in answers)
            assert all(one["label"] == NAMES[one["class"]] for one in answers)
            assert sum(one["class"] == label for one, label in zip(answers, labels, strict=True)) >= 18
        blank = service.client.post("/explain", json={"images": [[[0] * 28] * 28]})
        assert blank.status_code == 422


def test_swap_to_another_shape_under_load_loses_no_request(
    start_service: Callable[..., Any], model_file: Path, colour_file: Path, test_digits: Digits, tmp_path: Path
) -> None:
    swap = Swap(tmp_path / "served.onnx", (model_file, colour_file))
    swap.put(0)
    digits, signs = test_digits[0][:70], pictures(COLOUR, 70)
    asked = [("/predict", digits), ("/predict/raw", digits), ("/predict", signs), ("/predict/raw", signs)]
    asked += [("/predict/files", digits[:5]), ("/predict", digits[:1]), ("/predict", signs[:1])]
    expected = {
        (version, images.shape): Model.load(path).predict(images).argmax(1).tolist()
        for version, path, kind in zip(swap.versions, swap.models, (digits, signs), strict=True)
        for images in (kind, kind[:1])
    }
    with (
        start_service(SERVING_MODEL=swap.served, SERVING_POLL_SECONDS=SECONDS_TO_SWAP) as service,
        ThreadPoolExecutor(len(asked)) as clients,
    ):
        service.wait_for(200)
        swapping = True

        def keep_asking(route: str, images: np.ndarray) -> Counter[tuple[int, str]]:
            seen: Counter[tuple[int, str]] = Counter()
            while swapping:
                answer = ask(service, route, images)
                version = answer.headers["x-model-version"]
                seen[answer.status_code, version] += 1
                if answer.status_code == 200:
                    if route != "/predict/files":
                        assert [one["class"] for one in answer.json()] == expected[version, images.shape]
                    continue
                assert answer.status_code == 422, answer.text
                assert route != "/predict/files", answer.text
                # A refusal names the shape that does not fit these images.
                other, size = (IN_COLOUR, 3072) if images.ndim == 3 else (IN_GREY, 784)
                assert re.search(f"{re.escape(other)}|expected N times {size} bytes", sentence(answer))
            return seen

        asking = [clients.submit(keep_asking, route, images) for route, images in asked]
        try:
            for which in [1, 0] * 2:
                swap.put(which)
                wait_until(partial(serves, service, swap.versions[which]), "the swap")
                enum = service.client.get("/docs.json").json()["components"]["schemas"]["Answer"]["properties"]["label"]
                assert enum["enum"] == (COLOUR["classes"] if which else list("0123456789"))
        finally:
            swapping = False
        for (route, images), future in zip(asked, asking, strict=True):
            seen = future.result()
            fitting = swap.versions[0 if images.ndim == 3 else 1]
            assert seen[200, fitting] > 0
            answered = {version for (status, version), count in seen.items() if status == 200 and count}
            assert answered == (set(swap.versions) if route == "/predict/files" else {fitting})
            assert route == "/predict/files" or any(status == 422 for status, _ in seen)
        assert value(service, "digits_predictions_total", label="7") == value(
            service, "digits_predicted_total", digit="7"
        )
        assert sum(value(service, "digits_predictions_total", label=label) for label in COLOUR["classes"]) > 0
        assert service.log.read_text().count("Traceback") == 0


def serves(service: Service, version: str) -> bool:
    return bool(service.client.get("/model").json()["version"] == version)
