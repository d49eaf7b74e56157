import json
import re

import pytest

from tests.serving.asking import JSON, RAW, Digits, png, sentence
from tests.serving.conftest import Service

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
        ("/predict", BODY, {"content-type": "text/plain"}, 415, "accepts application/json"),
        ("/predict", BODY, {**JSON, "content-encoding": "gzip"}, 415, "Content-Encoding gzip is not supported"),
        ("/predict/raw", b"", RAW, 422, "0 bytes"),
        ("/predict/raw", bytes(783), RAW, 422, "783 bytes"),
        ("/predict/raw", bytes(785), RAW, 422, "785 bytes"),
        ("/predict/raw", bytes(784 * 1025), RAW, 413, "1025 images are too many: at most 1024"),
        ("/predict/raw", bytes(784), JSON, 415, "accepts application/octet-stream"),
        ("/predict/raw", bytes(16 * 2**20 + 1), RAW, 413, "at most 16777216 bytes"),
        ("/predict/files", bytes(784), RAW, 415, "accepts multipart/form-data"),
        ("/predict/files", b"x", {"content-type": "multipart/form-data"}, 400, "has no boundary"),
    ],
)
def test_bad_body_gets_its_status_and_one_sentence(
    service: Service, route: str, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = service.client.post(route, content=content, headers=headers)
    assert answer.status_code == status
    assert said in sentence(answer)


def test_limit_of_images_is_inclusive(service: Service) -> None:
    answer = service.client.post("/predict/raw", content=bytes(784 * 1024), headers=RAW)
    assert len(answer.json()) == 1024
    images = [[[255] * 28] * 28] * 1024
    assert len(service.client.post("/predict", json={"images": images}).json()) == 1024
    answer = service.client.post("/predict", json={"images": [*images, images[0]]})
    assert answer.status_code == 413
    assert "1025 images are too many" in sentence(answer)


def test_content_type_is_optional(service: Service) -> None:
    for route, content in (("/predict", BODY), ("/predict/raw", bytes(784))):
        assert service.client.post(route, content=content).status_code == 200


def test_chunked_body_is_refused_when_it_gets_too_long(service: Service) -> None:
    answer = service.client.post("/predict/raw", content=iter([bytes(2**20)] * 17), headers=RAW)
    assert answer.status_code == 413
    assert "at most 16777216 bytes" in sentence(answer)
    answer = service.client.post("/predict/raw", content=iter([bytes(700), bytes(84)]), headers=RAW)
    assert answer.status_code == 200


def test_files_that_are_not_pictures_are_refused(service: Service, test_digits: Digits) -> None:
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
        ("POST", "/", "GET, HEAD"),
    ],
)
def test_other_methods_are_refused_with_allow_header(service: Service, method: str, path: str, allowed: str) -> None:
    answer = service.client.request(method, path)
    assert answer.status_code == 405
    assert sorted(answer.headers["allow"].split(", ")) == sorted(allowed.split(", "))
    assert path in sentence(answer)


def test_unknown_path_returns_404_with_the_routes(service: Service) -> None:
    for method in ("GET", "POST"):
        answer = service.client.request(method, "/predict/nothing%20here")
        assert answer.status_code == 404
        assert "/predict/nothing here" in sentence(answer)
        routes = re.findall(r"/[a-z./]*", sentence(answer).split("the routes are")[1].rstrip("."))
        assert len(routes) == 12
        assert [path for path in routes if service.client.head(path).status_code == 404] == []
