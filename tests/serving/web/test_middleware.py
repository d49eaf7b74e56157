import asyncio
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from serving.web.middleware import InFront, Traffic
from serving.web.routes import ShortPath
from tests.processes import wait_until
from tests.serving.asking import RAW, value
from tests.serving.conftest import Service, Swap

Digits = tuple[np.ndarray, np.ndarray]
LINE = re.compile(
    r"\[entry_service:digits:(\d+)\] (?P<method>\S+) (?P<path>\S+) (?P<status>\d+) \d+\.\d{3} ms, request (?P<id>\S+)"
)


def identities(answer: httpx.Response) -> set[str]:
    return {answer.headers["x-request-id"], answer.headers["x-bentoml-request-id"]}


@pytest.mark.parametrize("given", ["1", "3f2b-7/A.b:c+d=_", "x" * 128])
def test_request_id_of_a_client_is_in_every_response(service: Service, given: str) -> None:
    for method, path in (("POST", "/predict/raw"), ("GET", "/model"), ("GET", "/livez"), ("GET", "/nothing")):
        content = bytes(784) if method == "POST" else b""
        answer = service.client.request(method, path, content=content, headers={**RAW, "x-request-id": given})
        assert identities(answer) == {given}
        assert len(answer.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", 'quo"te', "semi;colon", "ü".encode()])
def test_unsafe_request_id_is_replaced(service: Service, given: str | bytes) -> None:
    answer = service.client.get(
        "/model", headers={b"x-request-id": given.encode() if isinstance(given, str) else given}
    )
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
    assert len(identities(answer)) == 1


def lines(service: Service) -> list[re.Match[str]]:
    return list(LINE.finditer(service.log.read_text()))


def test_access_log_has_a_line_per_request(
    start_service: Callable[..., Any], model_file: Path, test_digits: Digits
) -> None:
    with start_service(SERVING_MODEL=model_file, SERVING_ACCESS_LOG=True) as service:
        service.wait_for(200)
        headers = {**RAW, "x-request-id": "mine"}
        service.client.post("/predict/raw", content=test_digits[0][0].tobytes(), headers=headers)
        refused = service.client.post("/predict/raw?a=b", content=b"x", headers=RAW)
        missing = service.client.get("/no%0Athing")
        service.client.get("/docs.json", headers={"x-request-id": "docs"})
        service.client.get("/metrics")
        wait_until(lambda: any(line["id"] == "docs" for line in lines(service)), "the access log's last line")
        assert [line.group("method", "path", "status", "id") for line in lines(service)] == [
            ("POST", "/predict/raw", "200", "mine"),
            ("POST", "/predict/raw", "422", refused.headers["x-request-id"]),
            ("GET", "/no%0Athing", "404", missing.headers["x-request-id"]),
            ("GET", "/docs.json", "200", "docs"),
        ]
        assert "trace=" not in service.log.read_text()


def test_traced_request_joins_the_trace_of_its_client(
    start_service: Callable[..., Any], model_file: Path, test_digits: Digits
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    settings = {"SERVING_TRACING": True, "SERVING_ACCESS_LOG": True}
    with start_service(SERVING_MODEL=model_file, **settings) as service:
        service.wait_for(200)
        headers = {**RAW, "traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "mine"}
        answer = service.client.post("/predict/raw", content=test_digits[0][0].tobytes(), headers=headers)
        assert answer.status_code == 200
        assert identities(answer) == {"mine"}
        wait_until(lambda: bool(lines(service)), "the access log's line")
        (line,) = [line for line in service.log.read_text().splitlines() if "request mine" in line]
        assert f"trace={trace}" in line
        assert "sampled=1" in line


@pytest.fixture
def parts() -> SimpleNamespace:
    """The parts of a service without a model."""
    return SimpleNamespace(metrics=Metrics(), store=SimpleNamespace(current=None), batcher=None, explainer=None)


def call(app: ASGIApp, path: str) -> list[Message]:
    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"host", b"localhost"), (b"x-request-id", b"mine")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "headers": headers,
    }

    async def run() -> None:
        await app(scope, receive, send)

    asyncio.run(run())
    return sent


def counted(metrics: Metrics, endpoint: str, status: int) -> float | None:
    metrics.write()
    labels = {"endpoint": endpoint, "http_response_code": str(status)}
    labels |= {"service_name": "", "service_version": "not available", "runner_name": "None"}
    return metrics.registry.get_sample_value("bentoml_service_request_total", labels)


async def fail(*arguments: object) -> None:
    raise RuntimeError("once")


def test_failed_request_is_logged_counted_and_answered(
    parts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bentoml_log: None
) -> None:
    short = ShortPath(ServerErrorMiddleware(fail), Settings(), parts)
    monkeypatch.setitem(short._routes, "/model", (("GET",), fail))
    traffic = Traffic(short, parts.store, parts.metrics, access_log=False)
    start, body = call(traffic, "/model")
    assert start["status"] == 500
    headers = dict(start["headers"])
    assert headers[b"x-request-id"] == b"mine"
    assert headers[b"x-model-version"] == b"none"
    assert json.loads(body["body"]).keys() == {"error"}
    assert [record.getMessage() for record in caplog.records] == ["GET /model failed, request mine"]
    assert counted(parts.metrics, "/model", 500) == 1

    # Starlette answers failures within BentoML and raises them again.
    caplog.clear()
    with pytest.raises(RuntimeError, match="once"):
        call(traffic, "/schema.json")
    assert [record.getMessage() for record in caplog.records] == ["GET /schema.json failed, request mine"]
    assert counted(parts.metrics, "/schema.json", 500) == 1


def test_request_that_bentoml_cancels_counts_as_504(parts: Any) -> None:
    async def give_up(*arguments: object) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        call(Traffic(give_up, parts.store, parts.metrics, access_log=False), "/predict")
    assert counted(parts.metrics, "/predict", 504) == 1


def test_two_workers_share_counts_and_follow_the_model(
    start_service: Callable[..., Any], swap: Swap, test_digits: Digits
) -> None:
    versions = swap.versions
    image = test_digits[0][0].tobytes()
    settings = {
        "SERVING_MODEL": swap.served,
        "SERVING_WORKERS": 2,
        "SERVING_POLL_SECONDS": 0.1,
        "SERVING_ACCESS_LOG": True,
    }
    asked = 0

    with start_service(**settings) as service, ThreadPoolExecutor(8) as clients:

        def ask(_: int) -> tuple[str, str]:
            # A new connection each time, accepted by either worker.
            answer = httpx.post(f"{service.url}/predict/raw", content=image, headers=RAW, timeout=60)
            assert answer.status_code == 200
            return answer.headers["x-request-id"], answer.headers["x-model-version"]

        def versions_by_worker() -> dict[str, set[str]]:
            nonlocal asked
            answers = dict(clients.map(ask, range(40)))
            asked += len(answers)
            seen: dict[str, set[str]] = {}
            wait_until(lambda: answers.keys() <= {line["id"] for line in lines(service)}, "all lines in the log")
            for line in lines(service):
                if line["id"] in answers:
                    seen.setdefault(line.group(1), set()).add(answers[line["id"]])
            return seen

        def both_serve(version: str) -> bool:
            return versions_by_worker() == {"1": {version}, "2": {version}}

        wait_until(lambda: value(service, "digits_reloads_total", result="loaded") == 2, "both workers having a model")
        wait_until(lambda: both_serve(versions[0]), "both workers answering")
        swap.put(1)
        wait_until(lambda: both_serve(versions[1]), "both workers following the swap")
        names = ("digits_predicted_total", "digits_images_per_call_sum", "digits_queue_seconds_count")
        # Each worker writes its counts with a delay.
        wait_until(lambda: [value(service, name) for name in names] == [asked] * 3, "all counted")
        wait_until(
            lambda: value(service, "bentoml_service_request_total", endpoint="/predict/raw") == asked, "all counted"
        )
        assert value(service, "digits_reloads_total", result="loaded") == 4
        assert value(service, "digits_model_info", recipe="other") == 1
        assert value(service, "digits_model_info", recipe="quick") == 0


class Named:
    """A middleware that adds its name to each request."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("passed", []).append(self._name)
        await self._app(scope, receive, send)


def application(in_place: bool) -> Starlette:
    async def passed(request: Any) -> PlainTextResponse:
        return PlainTextResponse(" ".join(request.scope["passed"]))

    return Starlette(
        routes=[Route("/", passed)],
        middleware=[
            Middleware(Named, name="theirs"),
            Middleware(InFront, build=lambda app: Named(app, "ours"), in_place=in_place),
            Middleware(Named, name="last"),
        ],
    )


async def start_and_stop(application: Starlette) -> None:
    """Send the lifespan events of a server."""
    events: Iterable[Message] = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(iter(events))

    async def send(message: Message) -> None:
        assert message["type"].endswith(".complete")

    await application({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


async def ask(application: Starlette) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://digits") as client:
        return (await client.get("/")).text


@pytest.mark.parametrize(("in_place", "order"), [(False, "ours theirs last"), (True, "theirs ours last")])
def test_middleware_is_added_once_at_startup(in_place: bool, order: str) -> None:
    starlette = application(in_place)
    assert asyncio.run(ask(starlette)) == "theirs last"
    asyncio.run(start_and_stop(starlette))
    assert asyncio.run(ask(starlette)) == order
