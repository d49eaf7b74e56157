"""Large pictures that arrive together at a running service."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from tests.serving.asking import sentence
from tests.serving.conftest import Service
from tests.serving.decoding.test_pictures import Digits, encoded

pytestmark = pytest.mark.slow

SIDE = 5000
MEBIBYTE = 2**20


def giant() -> bytes:
    """A small file of 25 million pixels, with one stroke."""
    page = Image.new("RGBA", (SIDE, SIDE), "white")
    page.paste("black", (SIDE // 3, SIDE // 4, SIDE // 2, SIDE * 3 // 4))
    return encoded(page)


def send(service: Service, route: str, content: bytes) -> httpx.Response:
    return httpx.post(service.url + route, files={"files": content}, timeout=120)


@pytest.mark.parametrize("route", ["/predict/files", "/explain"])
def test_large_pictures_wait_for_each_other_and_delay_no_small_one(
    service: Service, test_digits: Digits, route: str
) -> None:
    large, small = giant(), encoded(test_digits[0][0])
    assert len(large) < MEBIBYTE
    assert send(service, route, large).status_code == 200
    (worker,) = service.workers
    before = most = worker.memory_info().rss
    with ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(send, service, route, large) for _ in range(16)]
        while not all(each.done() for each in asked):
            assert send(service, route, small).status_code == 200
            most = max(most, worker.memory_info().rss)
            time.sleep(0.01)
        answers = [each.result() for each in asked]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert len(refused) >= 8
    for answer in refused:
        assert answer.headers["retry-after"] == "1"
        assert "already waits" in sentence(answer)
    # One picture of four bytes a pixel is in memory, not sixteen.
    assert most < before + 2.5 * 4 * SIDE * SIDE
    assert send(service, route, large).status_code == 200


def test_single_column_of_a_large_picture_is_refused_at_once(service: Service) -> None:
    answer = send(service, "/predict/files", encoded(Image.new("L", (1, 24_999_999), 255)))
    assert answer.status_code == 413
    assert "1x24999999 pixels in a form that takes too long to decode" in sentence(answer)
