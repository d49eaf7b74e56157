"""Tokens and the rate limit: alone, and on real services."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bentoml
import pytest

from serving.errors import RequestError
from serving.settings import SettingsError
from serving.web import tokens
from serving.web.pages import read_pages
from serving.web.tokens import LEAST_CHARACTERS, Rate, read_tokens
from tests.processes import ROOT, wait_until
from tests.serving.asking import RAW, sentence, value
from tests.serving.conftest import Service

FIRST, SECOND, THIRD = "first-token-0123456789", "c2Vjb25kLXRva2VuLTAxMjM0NQ==", "third.token~0123456789"
DATA = ("/predict", "/predict/raw", "/predict/files", "/explain", "/model", "/schema.json", "/nothing", "/predict/")
OPEN = ("/livez", "/readyz", "/healthz", "/docs.json", *sorted(page.path for page in read_pages()))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "tokens"


@pytest.fixture(scope="module")
def guarded(start_service: Callable[..., Any], model_file: Path, token_file: Path) -> Iterator[Service]:
    """A service with tokens and an access log."""
    token_file.write_text(f"# of the first client\n{FIRST}\n\n  {SECOND}  \n")
    with start_service(SERVING_MODEL=model_file, SERVING_TOKEN_FILE=token_file, SERVING_ACCESS_LOG=True) as ready:
        ready.wait_for(200)
        yield ready


@pytest.fixture(scope="module")
def limited(start_service: Callable[..., Any], model_file: Path, tmp_path_factory: Any) -> Iterator[Service]:
    """A service with tokens, a request in 20 seconds from each, and protected metrics."""
    file = tmp_path_factory.mktemp("limited") / "tokens"
    file.write_text(f"{FIRST}\n{SECOND}\n{THIRD}\n")
    settings = {"SERVING_TOKEN_FILE": file, "SERVING_RATE_LIMIT": 0.05, "SERVING_PROTECT_METRICS": True}
    with start_service(SERVING_MODEL=model_file, **settings) as ready:
        ready.wait_for(200)
        yield ready


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", DATA)
def test_routes_with_data_need_a_token(guarded: Service, method: str, path: str) -> None:
    before = value(guarded, "digits_rejected_total", reason="unauthorized")
    answer = guarded.client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="digits"'
    assert "Authorization: Bearer" in sentence(answer)
    assert value(guarded, "digits_rejected_total", reason="unauthorized") == before + 1


@pytest.mark.parametrize("path", [*OPEN, "/metrics"])
def test_pages_and_probes_are_open(guarded: Service, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize("token", [FIRST, SECOND])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_every_token_of_the_file_is_valid(guarded: Service, token: str, scheme: str) -> None:
    headers = {**RAW, "authorization": f"{scheme} {token}"}
    assert guarded.client.post("/predict/raw", content=bytes(784), headers=headers).status_code == 200
    assert guarded.client.get("/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        *("", "Bearer", FIRST, f"Basic {FIRST}", f"Bearer {FIRST}a", f"Bearer {FIRST[:-1]}"),
        *(f"Bearer {THIRD}", f"Bearer {FIRST.upper()}", f"Bearer {FIRST} {SECOND}", "Bearer # of the first client"),
    ],
)
def test_other_credentials_are_refused(guarded: Service, header: str) -> None:
    answer = guarded.client.get("/model", headers={"authorization": header})
    assert answer.status_code == 401
    assert sentence(answer)
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_two_tokens_in_one_request_are_refused(guarded: Service) -> None:
    headers = [("authorization", f"Bearer {FIRST}"), ("authorization", f"Bearer {SECOND}")]
    assert guarded.client.get("/model", headers=headers).status_code == 401


def test_client_of_bentoml_sends_a_token(guarded: Service) -> None:
    with bentoml.SyncHTTPClient(guarded.url, token=FIRST) as client:
        (digit,) = client.predict(images=[[[0] * 14 + [255] * 14] * 28])
    assert digit["digit"] in range(10)


def test_document_describes_the_token(guarded: Service, service: Service) -> None:
    document = guarded.client.get("/docs.json").json()
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    secured = {path for path, item in document["paths"].items() for each in item.values() if "security" in each}
    assert secured == {"/predict", "/predict/raw", "/predict/files", "/explain", "/model", "/schema.json"}
    assert "401" in document["paths"]["/model"]["get"]["responses"]
    assert "securitySchemes" not in service.client.get("/docs.json").json()["components"]


def status(service: Service, token: str) -> int:
    return service.client.get("/model", headers=bearer(token)).status_code


def test_tokens_change_without_a_restart(guarded: Service, token_file: Path) -> None:
    token_file.write_text(f"{SECOND}\n{THIRD}\n")
    wait_until(lambda: status(guarded, THIRD) == 200, "the new token being valid")
    assert (status(guarded, FIRST), status(guarded, SECOND)) == (401, 200)
    token_file.write_text(f"{FIRST}\nshort-secret\n")
    wait_until(lambda: status(guarded, THIRD) == 200 and "not updated" in guarded.log.read_text(), "a line in the log")
    assert (status(guarded, FIRST), status(guarded, SECOND)) == (401, 200)
    token_file.unlink()
    wait_until(lambda: status(guarded, THIRD) == 200 and "No such file" in guarded.log.read_text(), "a line in the log")
    assert (status(guarded, FIRST), status(guarded, SECOND)) == (401, 200)
    token_file.write_text(f"{FIRST}\n{SECOND}\n")
    wait_until(lambda: status(guarded, FIRST) == 200, "the old token being valid again")
    log = guarded.log.read_text()
    assert log.count("not updated") == 2
    assert "GET /model" in log
    assert [token for token in (FIRST, SECOND, THIRD, "short-secret") if token in log] == []


def test_each_token_has_a_rate_of_its_own(limited: Service) -> None:
    assert status(limited, FIRST) == 200
    answer = limited.client.get("/model", headers=bearer(FIRST))
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert "SERVING_RATE_LIMIT" in sentence(answer)
    assert status(limited, SECOND) == 200
    assert limited.client.get("/readyz").status_code == limited.client.get("/draw").status_code == 200


def test_metrics_can_be_protected(limited: Service) -> None:
    assert limited.client.get("/metrics").status_code == 401
    metrics = limited.client.get("/metrics", headers=bearer(THIRD)).text
    assert 'digits_rejected_total{reason="rate_limited"}' in metrics


def test_rate_fills_up_with_time() -> None:
    rate = Rate(2)
    for now, accepted in (
        (0, True),
        (0, True),
        (0, False),
        (0.4, False),
        (0.5, True),
        (0.6, False),
        (9, True),
        (9, True),
    ):
        if accepted:
            rate.take(b"a", now)
        else:
            with pytest.raises(RequestError) as refused:
                rate.take(b"a", now)
            assert refused.value.headers == ((b"retry-after", b"1"),)
    with pytest.raises(RequestError):
        rate.take(b"a", 9)
    rate.take(b"b", 9)


def test_clients_of_the_rate_limit_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_CLIENTS", 100)
    rate = Rate(1)
    for number in range(1000):
        rate.take(b"%d" % number, 0)
    assert len(rate._buckets) == 100
    with pytest.raises(RequestError):
        rate.take(b"999", 0)


@pytest.mark.parametrize(
    ("client", "same"),
    [("127.0.0.2", False), ("127.0.0.1", True), ("2001:db8:1:2::a", False), ("unknown", False), ("", False)],
)
def test_client_without_token_is_its_network(client: str, same: bool) -> None:
    assert (tokens._network({"client": ("127.0.0.1", 1)}) == tokens._network({"client": (client, 2)})) == same
    assert tokens._network({"client": ("2001:db8::1", 1)}) == tokens._network({"client": ("2001:db8::ffff:1", 1)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no token"),
        (b"# only a comment\n\n", "it has no token"),
        (b"a" * (LEAST_CHARACTERS - 1), "line 1 is no token, which has at least 16 letters"),
        (FIRST.encode() + b"\ntwo words in a line", "line 2 is no token"),
        (b"0123456789012345\xff", "it is not UTF-8"),
        (None, "it cannot be read: No such file or directory"),
    ],
)
def test_wrong_file_is_refused_without_showing_it(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_tokens(file)
    text = str(refused.value)
    assert text.startswith(f"SERVING_TOKEN_FILE is {str(file)!r}, but ")
    assert reason in text
    assert "two words" not in text


@pytest.mark.slow
def test_service_does_not_start_with_a_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("short-secret\n")
    command = [sys.executable, "-c", "import serving.service"]
    environment = {"PATH": "", "HOME": str(tmp_path), "SERVING_TOKEN_FILE": str(tmp_path / "tokens")}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("SERVING_TOKEN_FILE is ")
    assert "short-secret" not in ended.stdout + ended.stderr
