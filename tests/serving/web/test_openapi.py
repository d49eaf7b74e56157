import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import numpy as np
import orjson
import pytest
from PIL import Image

from serving import __version__
from serving.contract import MNIST, NUMBERS, TEXTS, TEXTS_OF
from serving.decoding.arrays import from_raw
from serving.decoding.pictures import from_pictures
from serving.inference.explain import LEAST_EDGES, MOST_EDGES, SQUARE, STEP, STRONG, STRONG_SHARE, SURE
from serving.model.onnx_file import Model
from serving.monitoring.metrics import REASONS
from serving.settings import Settings
from serving.web import openapi
from serving.web.routes import ROUTES
from tests.serving.conftest import Service
from tests.serving.decoding.test_other_forms import FORMS
from tests.serving.handmade import COLOUR, GREY, pictures

FUZZED = 30  # cases per route and phase: seconds here, and the same ones in every run
DIGIT = 7
MARKS = {"X-Model-Version", "X-Request-ID", "X-BentoML-Request-ID"}


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = service.client.get("/docs.json").json()
    return answer


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def body_example(document: dict[str, Any], path: str, media_type: str) -> Any:
    return document["paths"][path]["post"]["requestBody"]["content"][media_type]["example"]


def send(service: Service, path: str, media_type: str, shown: Any) -> httpx.Response:
    """Send an example as a client would that has the document alone: text is UTF-8."""
    if media_type == "application/json":
        return service.client.post(path, json=shown)
    if media_type == "multipart/form-data":
        files = [(field, ("digit", text.encode())) for field, texts in shown.items() for text in texts]
        return service.client.post(path, files=files)
    return service.client.post(path, content=shown.encode(), headers={"content-type": media_type})


def test_every_route_is_described_and_answers(service: Service, document: dict[str, Any]) -> None:
    named = set(re.findall(r"/[a-z./]*", ROUTES))
    assert len(named) == 12
    assert named < document["paths"].keys()
    assert [path for path in document["paths"] if service.client.head(path).status_code == 404] == []
    for method, path, operation in operations(document):
        if method == "get":
            assert service.client.get(path).status_code == 200, path
        assert operation["description"], path
        for name in MARKS:
            assert name in operation["responses"]["200"]["headers"], path
            assert service.client.head(path).headers[name], path


def test_every_body_has_an_example_that_works_when_sent(service: Service, document: dict[str, Any]) -> None:
    sent = []
    for _, path, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            answer = send(service, path, media_type, content["example"])
            assert answer.status_code == 200, answer.text
            shown = operation["responses"]["200"]["content"]["application/json"]["example"]
            assert digits(answer.json()) == digits(shown) == [DIGIT]
            sent.append(path)
    assert sent == ["/predict", "/predict/raw", "/predict/files", "/explain", "/explain"]


def digits(answer: Any) -> list[int]:
    return [one["digit"] for one in (answer if type(answer) is list else [answer])]


def test_example_of_an_explanation_has_the_form_of_one(service: Service, document: dict[str, Any]) -> None:
    content = document["paths"]["/explain"]["post"]["responses"]["200"]["content"]["application/json"]
    answer = service.client.post("/explain", json=body_example(document, "/explain", "application/json")).json()
    assert content["example"].keys() == answer.keys()
    assert {name: type(value) for name, value in content["example"]["feature_maps"][0].items()} == {
        name: type(value) for name, value in answer["feature_maps"][0].items()
    }
    channels, height, width = content["example"]["feature_maps"][0]["shape"]
    assert len(base64.b64decode(content["example"]["feature_maps"][0]["values"])) == channels * height * width


def test_example_of_the_model_has_the_form_of_one(service: Service, document: dict[str, Any]) -> None:
    content = document["paths"]["/model"]["get"]["responses"]["200"]["content"]["application/json"]
    described = service.client.get("/model").json()
    assert {name: type(value) for name, value in content["example"].items()} == {
        name: type(described[name]) for name in content["example"]
    }
    known = document["components"]["schemas"]["Model"]["properties"]
    assert described.keys() - known.keys() <= {"contract", "data_source"}
    assert {*TEXTS, *TEXTS_OF["1"], *TEXTS_OF["2"], *NUMBERS} <= known.keys()
    assert (
        content["example"]["service_version"]
        == described["service_version"]
        == document["info"]["version"]
        == __version__
    )


def test_errors_are_described_in_their_form(service: Service, document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    assert {int(name.removeprefix("Error")) for name in responses} == {*REASONS, 500, 504} - {405, 499}
    for response in responses.values():
        ((media_type, content),) = response["content"].items()
        assert (media_type, list(content["example"])) == ("application/json", ["error"])
    assert responses["Error503"]["headers"].keys() == {*MARKS, "Retry-After"}


def test_limits_are_those_of_the_settings(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["Images"]["properties"]["images"]["maxItems"] == 1024
    raw = document["paths"]["/predict/raw"]["post"]["requestBody"]["content"]["application/octet-stream"]
    assert raw["schema"]["maxLength"] == 1024 * 784


def test_all_limits_are_filled_in() -> None:
    settings = Settings(max_images=7, max_body_bytes=5555, max_picture_pixels=999)
    text = openapi.read(settings).decode()
    assert all(f"At most {limit}" in text for limit in ("7 images and 5555 bytes", "999 pixels"))
    assert not re.search(r"\{\w+\}", text)
    document = orjson.loads(text)
    raw = document["paths"]["/predict/raw"]["post"]["requestBody"]["content"]["application/octet-stream"]
    assert raw["schema"]["maxLength"] == 7 * 784
    form = document["paths"]["/predict/files"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["properties"]["files"]["maxItems"] == 7


@pytest.mark.parametrize("name", FORMS)
def test_document_describes_the_form(name: str) -> None:
    values, form = FORMS[name]
    document = orjson.loads(openapi.read(Settings(max_images=7), form))
    schemas = document["components"]["schemas"]
    images, answer = schemas["Images"], schemas["Answer"]
    sent = pictures(values, 3)
    jsonschema_rs.validate(images, {"images": sent.tolist()})
    for other in (sent[:, 1:], sent[:, :, 1:], np.zeros((1, 28, 28), int), np.zeros((8, *form.shape), int)):
        assert not jsonschema_rs.is_valid(images, {"images": other.tolist()})
    assert "digit" not in answer["properties"]
    assert answer["properties"]["label"]["enum"] == values["classes"]
    count = len(form.classes)
    shown = {
        "confidence": 1,
        "probabilities": [1] + [0] * (count - 1),
        "class": count - 1,
        "label": values["classes"][0],
    }
    jsonschema_rs.validate(answer, shown)
    for change in ({"class": count}, {"label": "7"}, {"probabilities": [1.0] * (count + 1)}):
        assert not jsonschema_rs.is_valid(answer, {**shown, **change})
    raw = document["paths"]["/predict/raw"]["post"]["requestBody"]["content"]["application/octet-stream"]
    assert (raw["schema"]["minLength"], raw["schema"]["maxLength"]) == (form.pixels, 7 * form.pixels)
    assert from_raw(raw["example"].encode(), 1, form).any()
    assert form.dataset in document["info"]["description"]
    assert "ink" not in document["paths"]["/predict"]["post"]["description"]


def test_names_in_a_form_are_not_taken_for_places() -> None:
    form = replace(FORMS["colour"][1], dataset='{width} "quoted"', classes=("{height}", "{unknown}"))
    document = orjson.loads(openapi.read(Settings(), form))
    assert '{width} "quoted"' in document["info"]["description"]
    assert document["components"]["schemas"]["Answer"]["properties"]["label"]["enum"] == ["{height}", "{unknown}"]


@pytest.mark.parametrize("tracing", [False, True])
def test_timeout_of_bentoml_is_described_only_if_it_applies(tracing: bool) -> None:
    document = orjson.loads(openapi.read(Settings(tracing=tracing)))
    late = {path for _, path, operation in operations(document) if "504" in operation["responses"]}
    assert late == ({"/predict", "/predict/raw", "/predict/files", "/explain"} if tracing else set())


def test_schemas_are_those_of_the_service(service: Service, document: dict[str, Any]) -> None:
    (predict,) = service.client.get("/schema.json").json()["routes"]
    schemas = document["components"]["schemas"]
    images = schemas["Images"]["properties"]["images"]
    declared = predict["input"]["properties"]["images"]
    assert images.keys() == declared.keys()
    assert (images["minItems"], images["maxItems"]) == (declared["minItems"], declared["maxItems"])
    one = document["paths"]["/explain"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert one["properties"] == {"images": {**images, "maxItems": 1}}
    # BentoML's is that of any model.
    (kind,) = predict["output"]["$defs"].values()
    assert list(schemas["Answer"]["properties"]) == list(kind["properties"])
    body = body_example(document, "/predict", "application/json")
    answers = service.client.post("/predict", json=body).json()
    for schema, value in ((predict["input"], body), (predict["output"], answers)):
        jsonschema_rs.validate(schema, value)
    for body in (COLOUR, GREY):
        jsonschema_rs.validate(predict["input"], {"images": pictures(body, 2).tolist()})


def test_constants_of_explanations_are_those_of_the_code(document: dict[str, Any]) -> None:
    explanation = document["components"]["schemas"]["Explanation"]["properties"]
    sure = explanation["sure"]["description"]
    for constant in (
        f"at least {SURE} ",
        f"{STRONG_SHARE:.0%} of the ink",
        f"above {STRONG},",
        f"{LEAST_EDGES} to {MOST_EDGES} times",
    ):
        assert constant in sure
    assert f"squares of {SQUARE}x{SQUARE} pixels, {STEP} apart" in explanation["saliency"]["description"]
    for name in ("image", "saliency"):
        assert {explanation[name]["minItems"], explanation[name]["items"]["maxItems"]} == {MNIST.height}


def test_examples_show_the_same_digit_of_the_test_set(
    document: dict[str, Any], test_digits: tuple[np.ndarray, np.ndarray], model_file: Path
) -> None:
    images = np.array(body_example(document, "/predict", "application/json")["images"], np.uint8)
    assert body_example(document, "/explain", "application/json")["images"] == images.tolist()
    differences = np.abs(test_digits[0].astype(int) - images).max((1, 2))
    assert differences.min() <= 36  # the example has seven shades
    assert test_digits[1][differences.argmin()] == DIGIT
    raw = body_example(document, "/predict/raw", "application/octet-stream")
    (picture,) = body_example(document, "/predict/files", "multipart/form-data")["files"]
    assert body_example(document, "/explain", "multipart/form-data")["files"] == [picture]
    for text in (raw, picture):
        assert text.isascii()  # JSON holds no other bytes
    half = from_raw(raw.encode(), 1)
    assert np.array_equal(half[0], images[0] // 2)
    with Image.open(io.BytesIO(picture.encode())) as opened:
        assert opened.format == "BMP"
        assert np.array_equal(np.asarray(opened.convert("L")), half[0])
    forms = [images, half, from_pictures([picture.encode()], 784)]
    assert [Model.load(model_file).predict(form).argmax() for form in forms] == [DIGIT] * 3


def test_api_page_shows_the_document(service: Service) -> None:
    page = service.client.get("/docs").text
    (script,) = re.findall(r'src="(\S*/docs\.js)"', page)
    assert 'url: "docs.json"' in service.client.get(f"/{script}").text


def test_fuzzing_finds_no_failure_and_nothing_undocumented(
    service: Service, document: dict[str, Any], tmp_path: Path
) -> None:
    config = Path(__file__).with_name("schemathesis.toml")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{service.url}/docs.json", "--phases", "examples,coverage,fuzzing", "--max-examples", str(FUZZED)]
    command += ["--generation-deterministic", "--no-color"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]
    tested = re.search(r"Tested: (\d+)", ended.stdout)
    assert tested
    assert int(tested.group(1)) == len(operations(document))
