import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest

from serving import __version__
from serving.inference.batching import IMAGES_PER_CALL
from serving.model.onnx_file import Model
from tests.processes import wait_until

from .asking import RAW, ask, png, sentence, value
from .conftest import Service, Swap, set_metadata

Digits = tuple[np.ndarray, np.ndarray]


def serves(service: Service, version: str) -> bool:
    return bool(service.client.get("/model").json()["version"] == version)


@pytest.mark.parametrize("route", ["/predict", "/predict/raw", "/predict/files"])
@pytest.mark.parametrize("count", [1, 3, 70])
def test_answers_are_those_of_the_model_in_order(
    service: Service, model_file: Path, test_digits: Digits, route: str, count: int
) -> None:
    images = test_digits[0][:count]
    expected = Model.load(model_file).predict(images)
    answer = ask(service, route, images)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == Model.load(model_file).digest[:12]
    answers = answer.json()
    assert [list(one) for one in answers] == [["digit", "confidence", "probabilities", "class", "label"]] * count
    found = np.array([one["probabilities"] for one in answers])
    assert np.abs(found - expected).max() < 1e-5
    assert [one["digit"] for one in answers] == [one["class"] for one in answers] == expected.argmax(1).tolist()
    assert [one["label"] for one in answers] == [str(one["digit"]) for one in answers]
    assert [one["confidence"] for one in answers] == found.max(1).tolist()


def test_thousand_digits_are_read(service: Service, test_digits: Digits) -> None:
    images, labels = test_digits
    found = [one["digit"] for one in ask(service, "/predict/raw", images).json()]
    assert (np.array(found) == labels).mean() > 0.9


@pytest.mark.parametrize("route", ["/predict", "/predict/raw", "/predict/files", "/explain"])
def test_request_for_a_version_is_answered_by_it_or_refused(
    service: Service, model_file: Path, test_digits: Digits, route: str
) -> None:
    body: dict[str, Any] = {"json": {"images": test_digits[0][:1].tolist()}}
    if route == "/predict/raw":
        body = {"content": test_digits[0][:1].tobytes(), "headers": RAW}
    if route == "/predict/files":
        body = {"files": {"files": png(test_digits[0][0])}}
    headers = body.pop("headers", {})
    version = Model.load(model_file).digest[:12]
    answer = service.client.post(route, **body, headers={**headers, "X-Model-Version": version})
    assert answer.status_code == 200, answer.text
    refused = service.client.post(route, **body, headers={**headers, "X-Model-Version": "7"})
    assert refused.status_code == 409
    assert refused.headers["x-model-version"] == version
    assert sentence(refused).startswith(f"version {version} of the model answers here, and X-Model-Version wants 7; ")


def test_every_response_has_its_own_request_id(service: Service, test_digits: Digits) -> None:
    answers = [ask(service, "/predict", test_digits[0][:1]), service.client.get("/livez"), service.client.get("/model")]
    assert len({answer.headers["x-bentoml-request-id"] for answer in answers}) == 3
    assert len({answer.headers["x-model-version"] for answer in answers}) == 1


def test_routes_of_bentoml_are_unchanged(service: Service) -> None:
    assert service.client.get("/livez").text == "\n"
    assert service.client.get("/readyz").status_code == 200
    assert "/predict" in service.client.get("/docs.json").json()["paths"]
    assert "/predict" in {route["route"] for route in service.client.get("/schema.json").json()["routes"]}


def test_model_route_describes_the_model_and_the_service(service: Service, model_file: Path) -> None:
    answer = service.client.get("/model")
    assert answer.status_code == 200
    described = answer.json()
    assert described["ready"] is True
    assert described["service_version"] == __version__
    assert described["version"] == answer.headers["x-model-version"]
    assert described["source"] == f"file {model_file}"
    metadata = Model.load(model_file).metadata
    assert {name: described[name] for name in ("run_id", "recipe", "network")} == {
        name: metadata[name] for name in ("run_id", "recipe", "network")
    }
    assert described["data"] == described["subset"] == "tenth"
    assert described["validation_accuracy"] == float(metadata["validation_accuracy"])
    assert described["parameters"] == int(metadata["parameters"])
    assert service.client.head("/model").status_code == 200


def test_metrics_count_requests_and_images_per_call(service: Service, test_digits: Digits) -> None:
    calls, images = value(service, "digits_images_per_call_count"), value(service, "digits_images_per_call_sum")
    requests = value(service, "bentoml_service_request_total", endpoint="/predict/raw", http_response_code="200")
    ask(service, "/predict/raw", test_digits[0][: IMAGES_PER_CALL + 6])
    assert value(service, "digits_images_per_call_sum") == images + IMAGES_PER_CALL + 6
    assert value(service, "digits_images_per_call_count") == calls + 2
    assert (
        value(service, "bentoml_service_request_total", endpoint="/predict/raw", http_response_code="200")
        == requests + 1
    )


def test_clients_share_calls_and_get_their_own_answers(service: Service, model_file: Path, test_digits: Digits) -> None:
    images = test_digits[0][:200]
    expected = Model.load(model_file).predict(images)
    calls = value(service, "digits_images_per_call_count")

    def one(index: int) -> list[float]:
        answer = ask(service, "/predict/raw", images[index : index + 1])
        bad = service.client.post("/predict/raw", content=bytes(783), headers=RAW)
        assert bad.status_code == 422
        probabilities: list[float] = answer.json()[0]["probabilities"]
        return probabilities

    with ThreadPoolExecutor(16) as clients:
        found = np.array(list(clients.map(one, range(len(images)))))
    assert np.abs(found - expected).max() < 1e-5
    assert value(service, "digits_images_per_call_count") <= calls + len(images)


def test_log_has_the_start_and_the_model_but_no_request(service: Service, test_digits: Digits) -> None:
    ask(service, "/predict", test_digits[0][:1])
    lines = service.log.read_text().splitlines()
    assert any("Started; model source: " in line for line in lines)
    loaded = [line for line in lines if "Model loaded: version " in line]
    assert len(loaded) == 1
    assert all(word in loaded[0] for word in ("recipe ", "test accuracy ", "data "))
    assert not any("/predict" in line for line in lines)


def test_refused_model_keeps_the_service_unready_until_a_good_one_replaces_it(
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


def test_overload_is_refused_and_accepted_requests_are_answered(
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
        assert value(service, "digits_rejected_total", reason="overloaded") == len(refused)
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert "SERVING_QUEUE_IMAGES" in sentence(answer)
            else:
                assert answer.json() == expected
        assert ask(service, "/predict/raw", images).status_code == 200


def test_model_swap_under_load_loses_no_request(
    start_service: Callable[..., Any], swap: Swap, test_digits: Digits
) -> None:
    images = test_digits[0][:70]
    with (
        start_service(SERVING_MODEL=swap.served, SERVING_POLL_SECONDS=0.1) as service,
        ThreadPoolExecutor(4) as clients,
    ):
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
            for which in [1, 0] * 3:
                swap.put(which)
                wanted = swap.versions[which]
                wait_until(partial(serves, service, wanted), "the swap")
        finally:
            swapping = False
        assert set().union(*(future.result() for future in asking)) == set(swap.versions)
