"""Allowed hosts and other sites, on real services."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serving.errors import RequestError
from serving.web.hosts import EXEMPT, Hosts, host_name
from tests.serving.asking import RAW, connect, sentence, until_closed, value
from tests.serving.conftest import Service

SITE = "https://digits.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,authorization"}


@pytest.fixture(scope="module")
def opened(start_service: Callable[..., Any], model_file: Path) -> Iterator[Service]:
    """A service that others may use under one name, and from the pages of one site."""
    settings = {"SERVING_ALLOWED_HOSTS": "Digits.example, 127.0.0.1", "SERVING_ALLOWED_ORIGINS": SITE}
    with start_service(SERVING_MODEL=model_file, **settings) as ready:
        ready.wait_for(200)
        yield ready


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"localhost", b"localhost"),
        (b"LocalHost:3000", b"localhost"),
        (b"127.0.0.1:80", b"127.0.0.1"),
        (b"[::1]", b"[::1]"),
        (b"[::1]:3000", b"[::1]"),
        (b"[::1", b"[::1"),
        (b"localhost.evil.example", b"localhost.evil.example"),
        (b"localhost@evil.example", b"localhost@evil.example"),
        (b"", b""),
    ],
)
def test_port_and_case_of_a_host_do_not_count(host: bytes, name: bytes) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:3000", "serve:3000"])
def test_names_of_this_machine_and_of_the_container_are_allowed(service: Service, host: str) -> None:
    answer = service.client.post("/predict/raw", content=bytes(784), headers={**RAW, "host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/model", "/draw", "/", "/docs.json", "/nothing", "/predict"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "localhost.evil.example", "10.0.0.1", "[::2]", ""]
)
def test_other_hosts_are_refused(service: Service, path: str, host: str) -> None:
    before = value(service, "digits_rejected_total", reason="foreign_host")
    answer = service.client.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert sentence(answer) == f"the host {host} is not allowed; SERVING_ALLOWED_HOSTS names those that are."
    assert value(service, "digits_rejected_total", reason="foreign_host") == before + 1


@pytest.mark.parametrize("path", sorted(EXEMPT))
def test_probes_and_metrics_answer_under_every_name(service: Service, path: str) -> None:
    assert service.client.get(path, headers={"host": "10.1.2.3:3000"}).status_code == 200


@pytest.mark.parametrize(
    ("request_line", "hosts", "status"),
    [
        (b"GET /model HTTP/1.1", [], b"400"),
        (b"GET /model HTTP/1.1", [b"localhost", b"evil.example"], b"400"),
        (b"GET /model HTTP/1.1", [b"localhost", b"localhost"], b"400"),
        (b"GET /model HTTP/1.0", [], b"200"),
        (b"GET /model HTTP/1.0", [b"evil.example"], b"421"),
        (b"GET http://localhost/model HTTP/1.1", [b"evil.example"], b"421"),
    ],
)
def test_request_has_one_host(service: Service, request_line: bytes, hosts: list[bytes], status: bytes) -> None:
    lines = [request_line, *(b"Host: " + host for host in hosts), b"Connection: close", b"", b""]
    with closing(connect(service, b"\r\n".join(lines))) as connection:
        assert until_closed(connection)[9:12] == status


def test_star_allows_every_host() -> None:
    scope = {"path": "/model", "http_version": "1.1", "headers": [(b"host", b"evil.example")]}
    Hosts(["*"]).check(scope)
    with pytest.raises(RequestError, match=r"evil\.example"):
        Hosts(["localhost"]).check(scope)


def test_other_names_can_be_allowed(opened: Service) -> None:
    for host, status in (("digits.example:8443", 200), ("127.0.0.1", 200), ("localhost", 421), ("other.example", 421)):
        assert opened.client.get("/model", headers={"host": host}).status_code == status


def cors_headers(headers: Any) -> list[str]:
    return [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", SITE, "http://localhost:3000"])
def test_default_has_no_headers_for_other_sites(service: Service, origin: str) -> None:
    answer = service.client.get("/model", headers={"origin": origin})
    assert answer.status_code == 200
    assert cors_headers(answer.headers) == []
    answer = service.client.options("/predict", headers={"origin": origin, **PREFLIGHT})
    assert answer.status_code == 405
    assert cors_headers(answer.headers) == []


def test_named_site_may_use_the_service(opened: Service) -> None:
    answer = opened.client.options("/predict/raw", headers={"origin": SITE, **PREFLIGHT})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SITE
    answer = opened.client.post("/predict/raw", content=bytes(784), headers={**RAW, "origin": SITE})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SITE
    assert "x-model-version" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{SITE}.evil.example", "null", SITE.replace("https", "http")]
)
def test_other_sites_get_no_headers_and_no_preflight(opened: Service, origin: str) -> None:
    answer = opened.client.options("/predict", headers={"origin": origin, **PREFLIGHT})
    assert answer.status_code == 405
    assert sentence(answer)
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in opened.client.get("/model", headers={"origin": origin}).headers
