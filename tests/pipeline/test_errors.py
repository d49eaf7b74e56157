"""Every expected failure of the disk, the database or the server is one sentence and exit code 1."""

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest

from tests.pipeline.conftest import Done

pytestmark = pytest.mark.slow


def failed(done: Done) -> str:
    assert done.returncode == 1
    assert len(done.log[-1].splitlines()) == 1
    return done.log[-1]


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs a folder that nobody can write, as Linux's /sys")
@pytest.mark.parametrize("folder", ["/sys/kernel", "/sys/kernel/var"])
def test_folder_that_cannot_be_written(command: Callable[..., Done], folder: str) -> None:
    told = failed(command("status", "--state-dir", folder))
    assert told.startswith(f"{folder}")
    assert told.endswith("mend that, and repeat the command.")


def test_file_in_place_of_the_folder(command: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "cannot be used (" in failed(command("status", "--state-dir", str(tmp_path / "file")))


def test_damaged_database(command: Callable[..., Done], state: Path) -> None:
    content = (state / "mlflow.db").read_bytes()
    (state / "mlflow.db").write_bytes(b"no database" * 1000)
    told = failed(command("status", "--state-dir", str(state)))
    assert told.startswith(f"{state}/mlflow.db cannot be read (file is not a database)")
    (state / "mlflow.db").write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    assert "malformed" in failed(command("status", "--state-dir", str(state)))


def test_uri_that_is_no_address(command: Callable[..., Done], tmp_path: Path) -> None:
    told = failed(command("status", "--state-dir", str(tmp_path), MLFLOW_TRACKING_URI="http://[bad"))
    assert told == "MLFLOW_TRACKING_URI is not an address (Invalid IPv6 URL): correct it, or unset it."


@pytest.mark.parametrize("name", ["%41", "var?"])
def test_path_that_mlflow_takes_for_another(command: Callable[..., Done], tmp_path: Path, name: str) -> None:
    told = failed(command("status", "--state-dir", str(tmp_path / name)))
    assert told == f"MLflow cannot use {tmp_path / name}, because of % or ?: choose another --state-dir."
    assert not list(tmp_path.iterdir())


def test_spaces_and_umlauts_in_the_path(command: Callable[..., Done], empty_store: Path, tmp_path: Path) -> None:
    state = tmp_path / "ü #1"
    state.mkdir()
    shutil.copy(empty_store, state / "mlflow.db")
    assert command("status", "--state-dir", str(state)).returncode == 0
    assert [path.name for path in tmp_path.rglob("*")] == [state.name, "mlflow.db"]


class Refusing(BaseHTTPRequestHandler):
    code = 413

    def do_GET(self) -> None:
        self.send_error(self.code)

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def champion(state: Path, linear_model: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """A registry with one version, champion."""
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(state))
    client = mlflow.MlflowClient(f"sqlite:///{state}/mlflow.db")
    client.create_registered_model("digits")
    (state / "1").mkdir()
    shutil.copy(linear_model, state / "1" / "model.onnx")
    client.create_model_version("digits", (state / "1").as_uri())
    client.set_registered_model_alias("digits", "champion", "1")
    return client


def test_artifact_that_the_server_refuses(
    command: Callable[..., Done],
    champion: mlflow.MlflowClient,
    refusing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    champion.create_model_version("digits", f"{refusing}/api/2.0/mlflow-artifacts/artifacts/2")
    told = failed(command("export", "--version", "2", "--to", str(tmp_path / "model.onnx")))
    assert told.startswith("MLflow failed: ")
    assert "413" in told


def test_server_error_is_not_told_as_a_missing_version(
    command: Callable[..., Done], champion: mlflow.MlflowClient, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise mlflow.exceptions.MlflowException("the disk is full")

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version", fail)
    assert failed(command("export", "--version", "1", "--to", "model.onnx")) == "MLflow failed: the disk is full"


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_export_into_a_folder(command: Callable[..., Done], champion: mlflow.MlflowClient, target: str) -> None:
    told = failed(command("export", "--to", target))
    assert told == f"{target} cannot be written (Is a directory): name a file with --to."


def test_status_shows_what_rich_would_take_for_markup(
    command: Callable[..., Done], champion: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for tag, value in (("recipe", "[/x]"), ("data", "[red]full"), ("verdict", "[link=x]"), ("test_accuracy", "none")):
        champion.set_model_version_tag("digits", "1", tag, value)
    done = command("status")
    assert done.returncode == 0
    assert all(shown in done.stdout for shown in ("[/x]", "[red]full", "[link=x]"))


@pytest.mark.parametrize(("flags", "told"), [([], "resume."), (["--fresh"], "starts over; what was finished before")])
def test_interrupted_training_promises_what_holds(
    command: Callable[..., Done], state: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], told: str
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow, "set_experiment", interrupt)
    done = command("train", "--subset", "tenth", "--state-dir", str(state), *flags)
    assert done.returncode == 130
    assert told in done.log[-1]
