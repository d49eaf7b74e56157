"""The log of a real service as JSON: every line, also those of BentoML, uvicorn and MLflow, and of a crash."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from io import StringIO
from types import SimpleNamespace
from typing import Any

import httpx
import onnx
import pytest
from onnx import TensorProto, helper
from uvicorn import Config, Server

from serving.monitoring.logs import JSONLines, set_up
from serving.monitoring.metrics import Metrics
from serving.web.middleware import Traffic
from tests.processes import ROOT, wait_until
from tests.serving.asking import RAW
from tests.serving.conftest import Service

pytestmark = pytest.mark.slow

BLACK, WHITE = bytes([255]) * 784, bytes(784)
SECRET = "hunter2-hunter2"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def fail_at_much_ink(model: onnx.ModelProto) -> None:
    """Make a model fail, with an error of ONNX Runtime, when the mean of the pixels of a batch is 128 or more."""
    graph = model.graph
    graph.initializer.append(helper.make_tensor("zeros", TensorProto.FLOAT, [128], [0.0] * 128))
    for node in graph.node:
        node.output[:] = ["before" if name == "probabilities" else name for name in node.output]
    graph.node.extend(
        [
            helper.make_node("Cast", ["images"], ["ink"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["ink"], ["mean"], keepdims=0),
            helper.make_node("Cast", ["mean"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["zeros", "index"], ["zero"]),
            helper.make_node("Add", ["before", "zero"], ["probabilities"]),
        ]
    )


def lines(text: str) -> list[dict[str, Any]]:
    """Every line, read as JSON."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def log(start_service: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, model_file: Any) -> Any:
    """The log of a service from its start to its end: answered, refused, malformed and failed requests in between."""
    model = onnx.load(model_file)
    fail_at_much_ink(model)
    path = tmp_path_factory.mktemp("failing") / "model.onnx"
    onnx.save(model, path)
    settings = {"SERVING_LOG_FORMAT": "json", "SERVING_ACCESS_LOG": True, "SERVING_TRACING": True}
    with start_service(SERVING_MODEL=path, SERVING_POLL_SECONDS=0.1, **settings) as service:
        service.wait_for(200)
        traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "authorization": f"Bearer {SECRET}"}
        ask(service, "answered", WHITE, 200, traced)
        ask(service, "refused", b"x", 422)
        ask(service, "failed", BLACK, 500)
        service.client.get(f"/model?token={SECRET}", headers={"x-request-id": "asked"})
        path.with_name("next").write_bytes(b"no model")
        path.with_name("next").replace(path)
        wait_until(lambda: "Model not updated" in service.log.read_text(), "the refused model in the log")
    return lines(service.log.read_text())


def ask(service: Service, identity: str, content: bytes, status: int, headers: dict[str, str] | None = None) -> None:
    answer = service.client.post(
        "/predict/raw", content=content, headers={**RAW, "x-request-id": identity, **(headers or {})}
    )
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == identity


def of_request(log: list[dict[str, Any]], identity: str) -> list[dict[str, Any]]:
    return [line for line in log if line.get("request_id") == identity]


def test_every_line_has_time_level_logger_and_message(log: list[dict[str, Any]]) -> None:
    for line in log:
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None, line
        assert line["level"] in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        assert line["logger"]
        assert line["message"]
        assert "\n" not in line["message"]
    assert {"bentoml.serve", "bentoml.digits", "bentoml.access"} <= {line["logger"] for line in log}


def test_access_line_has_its_numbers_as_fields_and_its_trace(log: list[dict[str, Any]]) -> None:
    (line,) = of_request(log, "answered")
    assert (line["logger"], line["level"], line["worker"]) == ("bentoml.access", "INFO", 1)
    assert (line["method"], line["path"], line["status"], line["trace_id"]) == ("POST", "/predict/raw", 200, TRACE)
    assert line["milliseconds"] > 0
    (line,) = of_request(log, "refused")
    assert line["status"] == 422


def test_failed_request_has_one_traceback_with_its_id(log: list[dict[str, Any]]) -> None:
    failed = of_request(log, "failed")
    assert [line["logger"] for line in failed] == ["bentoml.digits", "bentoml.access"]
    assert failed[0]["level"] == "ERROR"
    assert failed[0]["exception"].startswith("Traceback (most recent call last):")
    assert "Gather" in failed[0]["exception"]
    assert len([line for line in log if "Gather" in json.dumps(line)]) == 1


def test_lines_of_libraries_and_uncaught_exceptions_appear_once() -> None:
    code = """
import logging, threading, warnings
from bentoml._internal.log import configure_server_logging
from serving.monitoring.logs import set_up
from serving.web.connections import Connections
configure_server_logging()
set_up("json")
Connections(30).install()
import mlflow
for name in ("uvicorn.error", "circus", "mlflow", "bentoml"):
    logging.getLogger(name).error("of %s", name)
warnings.warn("a warning")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
[][0]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    log = lines(done.stdout)
    assert [line["message"] for line in log[:4]] == ["of uvicorn.error", "of circus", "of mlflow", "of bentoml"]
    assert [line["logger"] for line in log[4:]] == ["py.warnings", "bentoml.digits", "bentoml.digits"]
    assert [line["exception"].splitlines()[-1] for line in log[5:]] == [
        "ZeroDivisionError: division by zero",
        "IndexError: list index out of range",
    ]


def test_refused_model_is_logged_once(log: list[dict[str, Any]]) -> None:
    assert len([line for line in log if line["message"].startswith("Model not updated")]) == 1


def test_log_has_no_secret_and_no_picture(log: list[dict[str, Any]]) -> None:
    text = json.dumps(log)
    assert SECRET not in text
    assert "255, 255" not in text
    assert "\\xff" not in text


def formatted(message: str, error: BaseException | None = None) -> str:
    raised = (type(error), error, None) if error else None
    return JSONLines().format(logging.LogRecord("bentoml.digits", logging.ERROR, "", 1, message, None, raised))


def test_traceback_in_a_message_becomes_the_field() -> None:
    line = json.loads(formatted("Failed: x\nTraceback (most recent call last):\n  File\nValueError: x"))
    assert line["message"] == "Failed: x"
    assert line["exception"].splitlines()[-1] == "ValueError: x"


def test_passwords_are_removed_from_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    line = formatted("Failed", ValueError(f"wrong: {SECRET} and postgresql://me:s3cret@host/db"))
    assert SECRET not in line
    assert "s3cret" not in line
    assert "wrong" in line


def test_text_that_is_not_unicode_is_one_line() -> None:
    line = formatted("path \udcff and\nmore")
    assert line.isascii()
    assert "\n" not in line


@pytest.fixture
def uvicorn_log() -> Iterator[StringIO]:
    """The lines of `uvicorn.error`, formatted as JSON, with BentoML's handlers: one of its own, and the root's."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JSONLines())
    loggers = [logging.getLogger(name) for name in (None, "bentoml.digits", "uvicorn.error")]
    propagates = loggers[2].propagate
    for each in loggers:
        each.addHandler(handler)
    for each in loggers[1:]:
        each.propagate = False  # as BentoML and `Connections.install` set it
    yield written
    for each in loggers:
        each.removeHandler(handler)
    loggers[1].propagate = True
    loggers[2].propagate = propagates


@pytest.mark.filterwarnings("ignore:There is no current event loop")
def test_failure_within_an_answer_is_logged_once(uvicorn_log: StringIO) -> None:
    """An application fails after its answer began: the connection is cut, and the traceback appears once."""

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("in the middle")

    set_up("text")
    parts: Any = SimpleNamespace(store=SimpleNamespace(current=None))
    traffic = Traffic(fail, parts.store, Metrics(), access_log=False)

    async def run() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = Server(Config(traffic, log_config=None, lifespan="off", log_level="warning"))
            serving = asyncio.create_task(server.serve([listener]))
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", headers={"x-request-id": "mine"})
            server.should_exit = True
            await serving

    asyncio.run(run())
    (line,) = lines(uvicorn_log.getvalue())
    assert (line["logger"], line["request_id"]) == ("bentoml.digits", "mine")
    assert line["exception"].endswith("RuntimeError: in the middle")
