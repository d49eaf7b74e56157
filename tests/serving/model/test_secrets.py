"""No answer, metric or log line contains the password of the registry."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.processes import free_port, mlflow_server, wait_until
from tests.serving.asking import ask
from tests.serving.conftest import Service
from tests.serving.registry import Registry

SECRETS = ("s3cr/t", "s3cr%2Ft", "alice", "t0k3n")
LIBRARIES = ("HTTPConnection", "Max retries", "No module")


def answers(service: Service) -> str:
    """Everything that a client can read."""
    image = np.zeros((1, 28, 28), np.uint8)
    texts = [service.client.get(path).text for path in ("/readyz", "/model", "/metrics", "/docs.json")]
    texts += [ask(service, route, image).text for route in ("/predict", "/predict/raw", "/predict/files")]
    return "\n".join(texts)


@pytest.mark.parametrize("uri", ["http://{}127.0.0.1:{}/base?key=t0k3n", "postgresql://{}127.0.0.1:{}/db"])
def test_registry_that_does_not_answer_keeps_its_password(start_service: Callable[..., Any], uri: str) -> None:
    port = free_port()
    shown = uri.format("", port).partition("?")[0]
    with start_service(MLFLOW_TRACKING_URI=uri.format("alice:s3cr%2Ft@", port)) as service:
        wait_until(lambda: "does not answer" in service.client.get("/readyz").text, "the registry being reported")
        seen = answers(service)
        wait_until(lambda: "does not answer" in service.log.read_text(), "the line in the log")
    log = service.log.read_text()
    for text in (seen, log):
        assert f"the registry at {shown} does not answer" in text
        assert [secret for secret in SECRETS if secret in text] == []
    # A client learns that the registry is away; the reason is for the log.
    assert f"no model is in service: the registry at {shown} does not answer." in seen
    assert [word for word in LIBRARIES if word in seen] == []
    (line,) = [line for line in log.splitlines() if any(word in line for word in LIBRARIES)]
    assert f"Model not updated: the registry at {shown} does not answer: " in line
    assert "Traceback" not in log


def test_registry_that_answers_keeps_its_password(
    start_service: Callable[..., Any], model_file: Path, tmp_path: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with mlflow_server(tmp_path) as url:
        client = MlflowClient(url)
        client.create_registered_model("digits")
        registry = Registry(url, client, tmp_path / "files")
        registry.register(model_file)
        uri = url.replace("//", "//alice:s3cr%2Ft@")
        with start_service(MLFLOW_TRACKING_URI=uri, SERVING_POLL_SECONDS=0.2) as service:
            service.wait_for(200)
            assert service.client.get("/model").json()["source"] == f"registry {url} digits@champion"
            seen = answers(service)
            # The artifacts vanish: the download of a new champion fails.
            version = registry.register(model_file)
            client.set_registered_model_alias("digits", "champion", "1")
            for file in (tmp_path / "artifacts").rglob("model.onnx"):
                file.unlink()
            client.set_registered_model_alias("digits", "champion", version)
            wait_until(lambda: service.client.get("/model").json()["problem"] is not None, "the failure")
            seen += answers(service)
        log = service.log.read_text()
    for text in (seen, log):
        assert [secret for secret in SECRETS if secret in text] == []
        assert url in text


def test_database_error_is_logged_once_as_one_line(
    registry: Registry,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    bentoml_log: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store(settings, Metrics())
    assert not store.refresh()
    with (tmp_path / "mlflow.db").open("r+b") as database:  # overwritten while the registry is open
        database.truncate(0)
    for _ in range(3):
        assert not store.refresh()
    assert store.problem == f"the registry at {registry.uri} does not answer."
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "does not answer: (sqlite3.OperationalError)" in line]) == 1
    assert not any("\n" in line for line in lines)
    assert "Traceback" not in capfd.readouterr().err + caplog.text
