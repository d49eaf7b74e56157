"""The code of the last release writes the three volumes; the present code reads them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.processes import ROOT, answers, free_port, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # two releases train and serve, on a busy machine, too

RELEASE = "e6eab48fc577"  # the last commit of 0.1.0, which has no tag; later releases have one
TRAIN = ["train", "--data", "tenth", "--recipe", "dense", "--minimum-accuracy", "0.5"]


@dataclass(frozen=True)
class Volumes:
    """Folders with the content of the volumes: `state` of `mlflow` and `train`, `cache` of `serve`."""

    state: Path
    cache: Path


def pipeline(code: Path, state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments, "--state-dir", str(state)]
    environ = environment(code)
    done = subprocess.run(command, check=False, cwd=code, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def environment(code: Path) -> dict[str, str]:
    """The caller's variables without settings; the installed project would otherwise be found before `code`."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "SERVING_", "MLFLOW_"))
    }
    return own | {"PYTHONPATH": str(code), "BENTOML_DO_NOT_TRACK": "True"}


@contextmanager
def service(code: Path, cache: Path, registry: str, folder: Path) -> Iterator[str]:
    """Serve with `code` until the champion, or the last model of `cache`, is ready; gives the address."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Digits", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--working-dir", str(code)]
    settings = {
        "MLFLOW_TRACKING_URI": registry,
        "SERVING_CACHE_DIR": str(cache),
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    with running(command, environment(code) | settings, folder / "service.log"):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/readyz"), "the service ready")
        yield url


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """Train, serve, and interrupt a second training with the code of the last release."""
    folder = tmp_path_factory.mktemp("former")
    code = folder / "code"
    code.mkdir()
    command = ["git", "archive", RELEASE, "pipeline", "serving"]
    archive = subprocess.run(command, check=False, cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"the commit {RELEASE} is not in this clone: it needs the whole history")
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
    volumes = Volumes(folder / "state", folder / "cache")
    pipeline(code, volumes.state, *TRAIN)
    with service(code, volumes.cache, f"sqlite:///{volumes.state}/mlflow.db", folder) as url:
        assert httpx.get(f"{url}/model", timeout=60).json()["version"] == "1"
    command = [sys.executable, "-m", "pipeline", *TRAIN, "--seed", "2", "--state-dir", str(volumes.state)]
    log = folder / "interrupted.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=code, env=environment(code), stdout=output, stderr=output)
    wait_until(lambda: "epoch 2/5" in log.read_text(), "the second epoch")
    process.kill()
    process.wait()
    return volumes


@pytest.fixture
def volumes(former: Volumes, tmp_path: Path) -> Volumes:
    """A copy: a test may change it. The artifacts are found by their former place."""
    return Volumes(former.state, Path(shutil.copytree(former.cache, tmp_path / "cache")))


def test_champion_of_the_last_release_is_listed_judged_and_served(volumes: Volumes, tmp_path: Path) -> None:
    assert "champion" in pipeline(ROOT, volumes.state, "status").stdout
    pipeline(ROOT, volumes.state, "promote", "--version", "1", "--minimum-accuracy", "0.5", "--data", "tenth")
    pipeline(ROOT, volumes.state, "export", "--to", str(tmp_path / "model.onnx"))
    with service(ROOT, tmp_path / "new", f"sqlite:///{volumes.state}/mlflow.db", tmp_path) as url:
        assert httpx.get(f"{url}/model", timeout=60).json()["version"] == "1"
        assert httpx.post(f"{url}/predict/raw", content=bytes(784), timeout=60).is_success


def test_cache_of_the_last_release_is_served_without_a_registry(volumes: Volumes, tmp_path: Path) -> None:
    with service(ROOT, volumes.cache, f"http://127.0.0.1:{free_port()}", tmp_path) as url:
        assert httpx.get(f"{url}/model", timeout=60).json()["version"] == "1"
        assert httpx.post(f"{url}/predict/raw", content=bytes(784), timeout=60).is_success


def test_training_continues_in_the_state_of_the_last_release(volumes: Volumes) -> None:
    pipeline(ROOT, volumes.state, *TRAIN, "--seed", "2")
    table = pipeline(ROOT, volumes.state, "status").stdout
    assert table.count("dense") == 2, table
