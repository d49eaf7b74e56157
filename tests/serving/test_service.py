import io
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image

from serving.batching import IMAGES_PER_CALL
from serving.model import Model
from tests.processes import wait_until

from .conftest import Service, set_metadata

Digits = tuple[np.ndarray, np.ndarray]
JSON = {"content-type": "application/json"}
RAW = {"content-type": "application/octet-stream"}


def png(digit: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(digit).save(content, "PNG")
    return content.getvalue()


def ask(service: Service, route: str, images: np.ndarray) -> httpx.Response:
    if route == "/predict":
        return service.client.post(route, json={"images": images.tolist()})
    if route == "/predict/raw":
        return service.client.post(route, content=images.tobytes(), headers=RAW)
    return service.client.post(route, files=[("files", (f"{n}.png", png(image))) for n, image in enumerate(images)])


def sentence(answer: httpx.Response) -> str:
    """The one sentence of an error, which has the headers of every answer."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"]
    assert len(answer.headers["x-bentoml-request-id"]) == 16
    (said,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert said.endswith(".")
    assert "\n" not in said
    return str(said)


@pytest.mark.parametrize("route", ["/predict", "/predict/raw", "/predict/files"])
@pytest.mark.parametrize("count", [1, 3, 70])
def test_answers_are_the_model_s_in_order(
    service: Service, model_file: Path, test_digits: Digits, route: str, count: int
) -> None:
    images = test_digits[0][:count]
    expected = Model.load(model_file).predict(images)
    answer = ask(service, route, images)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == Model.load(model_file).digest[:12]
    answers = answer.json()
    assert [list(one) for one in answers] == [["digit", "confidence", "probabilities"]] * count
    found = np.array([one["probabilities"] for one in answers])
    assert np.abs(found - expected).max() < 1e-5
    assert [one["digit"] for one in answers] == expected.argmax(1).tolist()
    assert [one["confidence"] for one in answers] == found.max(1).tolist()


def test_a_thousand_digits_are_read(service: Service, test_digits: Digits) -> None:
    images, labels = test_digits
    found = [one["digit"] for one in ask(service, "/predict/raw", images).json()]
    assert (np.array(found) == labels).mean() > 0.9


def test_every_answer_has_a_request_id_of_its_own(service: Service, test_digits: Digits) -> None:
    answers = [ask(service, "/predict", test_digits[0][:1]), service.client.get("/livez"), service.client.get("/model")]
    assert len({answer.headers["x-bentoml-request-id"] for answer in answers}) == 3
    assert len({answer.headers["x-model-version"] for answer in answers}) == 1


def test_bentoml_s_own_routes_are_as_ever(service: Service) -> None:
    assert service.client.get("/livez").text == "\n"
    assert service.client.get("/readyz").status_code == 200
    assert "/predict" in service.client.get("/docs.json").json()["paths"]
    assert "text/html" in service.client.get("/").headers["content-type"]


def test_the_model_tells_about_itself(service: Service, model_file: Path) -> None:
    answer = service.client.get("/model")
    assert answer.status_code == 200
    told = answer.json()
    assert told["ready"] is True
    assert told["version"] == answer.headers["x-model-version"]
    assert told["source"] == f"file {model_file}"
    metadata = Model.load(model_file).metadata
    assert {name: told[name] for name in ("run_id", "recipe", "network", "data")} == {
        name: metadata[name] for name in ("run_id", "recipe", "network", "data")
    }
    assert told["validation_accuracy"] == float(metadata["validation_accuracy"])
    assert told["parameters"] == int(metadata["parameters"])
    assert service.client.head("/model").status_code == 200


def metric(service: Service, name: str) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_metrics_count_images_per_call_beside_bentoml_s_own(service: Service, test_digits: Digits) -> None:
    calls, images = metric(service, "digits_images_per_call_count"), metric(service, "digits_images_per_call_sum")
    requests = metric(service, 'bentoml_service_request_total{endpoint="/predict/raw",http_response_code="200"')
    ask(service, "/predict/raw", test_digits[0][: IMAGES_PER_CALL + 6])
    assert metric(service, "digits_images_per_call_sum") == images + IMAGES_PER_CALL + 6
    assert metric(service, "digits_images_per_call_count") == calls + 2
    assert (
        metric(service, 'bentoml_service_request_total{endpoint="/predict/raw",http_response_code="200"')
        == requests + 1
    )


def test_clients_share_calls_and_get_their_own_answers(service: Service, model_file: Path, test_digits: Digits) -> None:
    images = test_digits[0][:200]
    expected = Model.load(model_file).predict(images)
    calls = metric(service, "digits_images_per_call_count")

    def one(index: int) -> list[float]:
        answer = ask(service, "/predict/raw", images[index : index + 1])
        bad = service.client.post("/predict/raw", content=bytes(783), headers=RAW)
        assert bad.status_code == 422
        probabilities: list[float] = answer.json()[0]["probabilities"]
        return probabilities

    with ThreadPoolExecutor(16) as clients:
        found = np.array(list(clients.map(one, range(len(images)))))
    assert np.abs(found - expected).max() < 1e-5
    assert metric(service, "digits_images_per_call_count") <= calls + len(images)


BODY = json.dumps({"images": [[[0] * 28] * 28]}).encode()


@pytest.mark.parametrize(
    ("route", "content", "headers", "status", "said"),
    [
        ("/predict", b"", JSON, 400, "the body is not JSON"),
        ("/predict", b"{", JSON, 400, "the body is not JSON"),
        ("/predict", b'{"images": []}', JSON, 422, "images is empty"),
        ("/predict", BODY.replace(b"[0,", b"[300,", 1), JSON, 422, "images[0][0][0] is 300"),
        ("/predict", BODY.replace(b"[0,", b"[0.5,", 1), JSON, 422, "images[0][0][0] is 0.5"),
        ("/predict", BODY.replace(b"[0,", b"[true,", 1), JSON, 422, "images[0][0][0] is true"),
        ("/predict", BODY.replace(b"[0,", b"[", 1), JSON, 422, "images[0][0] is a list of 27"),
        ("/predict", BODY, {"content-type": "text/plain"}, 415, "takes application/json"),
        ("/predict", BODY, {**JSON, "content-encoding": "gzip"}, 415, "gzip"),
        ("/predict/raw", b"", RAW, 422, "0 bytes"),
        ("/predict/raw", bytes(783), RAW, 422, "783 bytes"),
        ("/predict/raw", bytes(785), RAW, 422, "785 bytes"),
        ("/predict/raw", bytes(784 * 1025), RAW, 413, "1025 images are too many: at most 1024"),
        ("/predict/raw", bytes(784), JSON, 415, "takes application/octet-stream"),
        ("/predict/raw", bytes(16 * 2**20 + 1), RAW, 413, "at most 16777216 bytes"),
        ("/predict/files", bytes(784), RAW, 415, "takes multipart/form-data"),
        ("/predict/files", b"x", {"content-type": "multipart/form-data"}, 400, "has no boundary"),
    ],
)
def test_a_bad_body_gets_its_status_and_one_sentence(
    service: Service, route: str, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = service.client.post(route, content=content, headers=headers)
    assert answer.status_code == status
    assert said in sentence(answer)


def test_as_many_images_as_allowed_are_taken(service: Service) -> None:
    answer = service.client.post("/predict/raw", content=bytes(784 * 1024), headers=RAW)
    assert len(answer.json()) == 1024
    images = [[[255] * 28] * 28] * 1024
    assert len(service.client.post("/predict", json={"images": images}).json()) == 1024
    answer = service.client.post("/predict", json={"images": [*images, images[0]]})
    assert answer.status_code == 413
    assert "1025 images are too many" in sentence(answer)


def test_a_missing_content_type_is_taken_for_the_route_s_own(service: Service) -> None:
    for route, content in (("/predict", BODY), ("/predict/raw", bytes(784))):
        assert service.client.post(route, content=content).status_code == 200


def test_a_body_without_a_length_is_refused_when_it_gets_too_long(service: Service) -> None:
    answer = service.client.post("/predict/raw", content=iter([bytes(2**20)] * 17), headers=RAW)
    assert answer.status_code == 413
    assert "at most 16777216 bytes" in sentence(answer)
    answer = service.client.post("/predict/raw", content=iter([bytes(700), bytes(84)]), headers=RAW)
    assert answer.status_code == 200


def test_what_is_no_picture_is_refused(service: Service, test_digits: Digits) -> None:
    files = [("files", ("a.png", png(test_digits[0][0]))), ("files", ("b.png", b"a text file\n"))]
    answer = service.client.post("/predict/files", files=files)
    assert answer.status_code == 415
    assert sentence(answer).startswith("picture 2 of 2 is not a picture")
    answer = service.client.post("/predict/files", files=[("picture", ("a.png", png(test_digits[0][0])))])
    assert answer.status_code == 422
    assert "has a field picture" in sentence(answer)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict/raw", "POST"),
        ("DELETE", "/predict/files", "POST"),
        ("POST", "/model", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("GET", "/explain", "POST"),
        ("POST", "/draw", "GET, HEAD"),
    ],
)
def test_another_method_is_refused_with_what_is_allowed(service: Service, method: str, path: str, allowed: str) -> None:
    answer = service.client.request(method, path)
    assert answer.status_code == 405
    assert sorted(answer.headers["allow"].split(", ")) == sorted(allowed.split(", "))
    assert path in sentence(answer)


def test_an_unknown_path_is_said_to_be_unknown(service: Service) -> None:
    for method in ("GET", "POST"):
        answer = service.client.request(method, "/predict/nothing%20here")
        assert answer.status_code == 404
        assert "/predict/nothing here" in sentence(answer)
        routes = re.findall(r"/[a-z./]+", sentence(answer).split("there are")[1].rstrip("."))
        assert len(routes) == 10
        assert [path for path in routes if service.client.head(path).status_code == 404] == []


def test_the_log_tells_of_the_start_and_the_model_and_of_no_request(service: Service, test_digits: Digits) -> None:
    ask(service, "/predict", test_digits[0][:1])
    lines = service.log.read_text().splitlines()
    assert any("started; the model comes from" in line for line in lines)
    loaded = [line for line in lines if "model loaded: version " in line]
    assert len(loaded) == 1
    assert all(word in loaded[0] for word in ("recipe ", "test accuracy ", "data "))
    assert not any("/predict" in line for line in lines)


def test_a_refused_model_leaves_the_service_not_ready_until_a_good_one_is_there(
    start_service: Callable[..., Any],
    variant: Callable[..., Path],
    model_file: Path,
    test_digits: Digits,
    tmp_path: Path,
) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        set_metadata(model, "contract", "0")

    broken = variant(spoil)
    with start_service(SERVING_MODEL=broken, SERVING_POLL_SECONDS=0.2) as service:

        def reason(answer: httpx.Response) -> bool:
            return "contract version '0'" in answer.text

        answer = service.wait_for(503)
        while not reason(answer):
            answer = service.client.get("/readyz")
        assert str(broken) in sentence(answer)
        assert int(answer.headers["retry-after"]) > 0
        assert service.client.get("/livez").status_code == 200
        assert reason(service.client.get("/model"))
        assert service.client.get("/model").json()["ready"] is False
        for route in ("/predict", "/predict/raw", "/predict/files"):
            answer = ask(service, route, test_digits[0][:1])
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["x-model-version"] == "none"
            assert reason(answer)
        assert "contract version '0'" in service.log.read_text()
        shutil.copyfile(model_file, tmp_path / "good")
        (tmp_path / "good").rename(broken)
        service.wait_for(200)
        assert ask(service, "/predict", test_digits[0][:1]).status_code == 200


def test_overload_is_answered_at_once_and_what_was_taken_is_answered(
    start_service: Callable[..., Any], model_file: Path, test_digits: Digits
) -> None:
    images = test_digits[0][:256]
    limits = {"SERVING_MAX_IMAGES": 256, "SERVING_QUEUE_IMAGES": 256}
    with start_service(SERVING_MODEL=model_file, **limits) as service:
        service.wait_for(200)
        expected = ask(service, "/predict/raw", images).json()
        with ThreadPoolExecutor(32) as clients:
            answers = list(clients.map(lambda _: ask(service, "/predict/raw", images), range(64)))
        assert {answer.status_code for answer in answers} == {200, 503}
        refused = [answer for answer in answers if answer.status_code == 503]
        assert metric(service, 'digits_rejected_total{reason="overloaded"') == len(refused)
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert "SERVING_QUEUE_IMAGES" in sentence(answer)
            else:
                assert answer.json() == expected
        assert ask(service, "/predict/raw", images).status_code == 200


def test_swapping_the_model_under_load_loses_no_request(
    start_service: Callable[..., Any],
    variant: Callable[..., Path],
    model_file: Path,
    test_digits: Digits,
    tmp_path: Path,
) -> None:
    other = variant(lambda model: set_metadata(model, "recipe", "other"), "other.onnx")
    served = tmp_path / "served.onnx"
    shutil.copyfile(model_file, served)
    versions = [Model.load(path).digest[:12] for path in (model_file, other)]
    images = test_digits[0][:70]
    with start_service(SERVING_MODEL=served, SERVING_POLL_SECONDS=0.1) as service, ThreadPoolExecutor(4) as clients:
        service.wait_for(200)
        expected = [one["digit"] for one in ask(service, "/predict/raw", images).json()]
        swapping = True

        def keep_asking(_: int) -> set[str]:
            seen = set()
            while swapping:
                answer = ask(service, "/predict/raw", images)
                assert answer.status_code == 200
                assert [one["digit"] for one in answer.json()] == expected
                seen.add(answer.headers["x-model-version"])
            return seen

        asking = [clients.submit(keep_asking, index) for index in range(4)]
        try:
            for path, version in [(other, versions[1]), (model_file, versions[0])] * 3:
                shutil.copyfile(path, tmp_path / "next")
                (tmp_path / "next").replace(served)
                wait_until(lambda wanted=version: service.client.get("/model").json()["version"] == wanted, "the swap")
        finally:
            swapping = False
        assert set().union(*(future.result() for future in asking)) == set(versions)
