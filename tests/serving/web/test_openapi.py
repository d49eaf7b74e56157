import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.web import example
from serving.web.openapi import ERRORS, HEADERS
from serving.web.routes import ROUTES
from tests.serving.conftest import Service

FUZZED = 30  # cases a route and phase: seconds here, and the same ones in every run


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = service.client.get("/docs.json").json()
    return answer


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def send(service: Service, path: str, media_type: str, shown: Any) -> httpx.Response:
    """Send an example as a client does that knows the document alone: text is UTF-8."""
    if media_type == "application/json":
        return service.client.post(path, json=shown)
    if media_type == "multipart/form-data":
        files = [(field, ("digit", text.encode())) for field, texts in shown.items() for text in texts]
        return service.client.post(path, files=files)
    return service.client.post(path, content=shown.encode(), headers={"content-type": media_type})


def test_every_route_is_described_and_answers(service: Service, document: dict[str, Any]) -> None:
    named = set(re.findall(r"/[a-z./]+", ROUTES))
    assert len(named) == 10
    assert named < document["paths"].keys()
    assert [path for path in document["paths"] if service.client.head(path).status_code == 404] == []
    for method, path, operation in operations(document):
        if method == "get":
            assert service.client.get(path).status_code == 200, path
        assert operation["description"], path
        for name in HEADERS:
            assert name in operation["responses"]["200"]["headers"], path
            assert service.client.head(path).headers[name], path


def test_every_body_has_an_example_that_works_when_sent(service: Service, document: dict[str, Any]) -> None:
    sent = []
    for _, path, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            answer = send(service, path, media_type, content["example"])
            assert answer.status_code == 200, answer.text
            shown = operation["responses"]["200"]["content"]["application/json"]["example"]
            assert digits(answer.json()) == digits(shown) == [example.DIGIT]
            sent.append(path)
    assert sent == ["/predict", "/predict/raw", "/predict/files", "/explain", "/explain"]


def digits(answer: Any) -> list[int]:
    return [one["digit"] for one in (answer if type(answer) is list else [answer])]


def test_the_example_of_an_explanation_is_like_one(service: Service, document: dict[str, Any]) -> None:
    content = document["paths"]["/explain"]["post"]["responses"]["200"]["content"]["application/json"]
    answer = service.client.post("/explain", json={"images": [example.image()]}).json()
    assert content["example"].keys() == answer.keys()
    assert {name: type(value) for name, value in content["example"]["feature_maps"][0].items()} == {
        name: type(value) for name, value in answer["feature_maps"][0].items()
    }
    channels, height, width = content["example"]["feature_maps"][0]["shape"]
    assert len(base64.b64decode(content["example"]["feature_maps"][0]["values"])) == channels * height * width


def test_the_example_of_the_model_is_like_the_model(service: Service, document: dict[str, Any]) -> None:
    content = document["paths"]["/model"]["get"]["responses"]["200"]["content"]["application/json"]
    told = service.client.get("/model").json()
    assert {name: type(value) for name, value in content["example"].items()} == {
        name: type(told[name]) for name in content["example"]
    }
    known = document["components"]["schemas"]["Model"]["properties"]
    assert told.keys() - known.keys() <= {"contract", "data_source"}


def test_errors_are_described_in_the_form_that_they_have(service: Service, document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    assert {int(name.removeprefix("Error")) for name in responses} == set(ERRORS)
    for response in responses.values():
        ((media_type, content),) = response["content"].items()
        assert (media_type, list(content["example"])) == ("application/json", ["error"])
    assert responses["Error503"]["headers"].keys() == {*HEADERS, "Retry-After"}


def test_limits_are_those_of_the_settings(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["Images"]["properties"]["images"]["maxItems"] == 1024
    raw = document["paths"]["/predict/raw"]["post"]["requestBody"]["content"]["application/octet-stream"]
    assert raw["schema"]["maxLength"] == 1024 * 784


def test_bentoml_s_page_shows_the_document(service: Service) -> None:
    page = service.client.get("/").text
    (script,) = re.findall(r'src="\.?/?(\S*swagger-initializer\.js)"', page)
    assert '"./docs.json"' in service.client.get(f"/{script}").text


def test_a_fuzzing_client_finds_no_failure_and_nothing_undocumented(
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
