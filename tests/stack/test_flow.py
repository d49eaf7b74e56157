"""`docker compose up` on a real engine: train, then predict the 10,000 test digits."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.model.onnx_file import Model
from tests.served import Answers, assert_equals_torch, predict

from .compose import ROOT, Stack, docker, wait_for

pytestmark = pytest.mark.stack

MEGABYTE = 1_000_000
Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images [10000, 784] and labels [10000]
PICTURES = {"filters.png", "feature-maps.png", "training-curves.png", "confusion-matrix.png"}


@pytest.fixture(scope="module")
def answers(stack: Stack, test_digits: Digits) -> Answers:
    """Predict the 10,000 test digits."""
    return predict(stack.service, test_digits[0])


def test_service_reads_99_percent_of_the_test_digits(answers: Answers, test_digits: Digits) -> None:
    _, labels = test_digits
    right = np.array([answer["digit"] for answer in answers]) == labels
    assert len(right) == 10_000
    assert right.mean() >= 0.99


def test_service_returns_the_probabilities_of_torch(stack: Stack, answers: Answers) -> None:
    assert_equals_torch(answers, stack.artifact("predictions/test.npz"), 10_000, 10)
    assert [answer["digit"] for answer in answers] == [answer["class"] for answer in answers]


def test_mlflow_lists_the_run_with_its_pictures(stack: Stack) -> None:
    assert stack.served_run() in {run["info"]["run_id"] for run in stack.runs()}
    listed = httpx.get(
        f"{stack.tracking}/api/2.0/mlflow/artifacts/list",
        params={"run_id": stack.served_run(), "path": "pictures"},
    )
    names = {Path(file["path"]).name for file in listed.raise_for_status().json()["files"]}
    assert names >= PICTURES
    for name in PICTURES:
        assert stack.artifact(f"pictures/{name}").startswith(b"\x89PNG"), name


def test_champion_is_exported_to_standard_output(stack: Stack, tmp_path: Path) -> None:
    command = [
        "docker",
        "compose",
        "--project-name",
        stack.project,
        "run",
        "--rm",
        "-T",
        "train",
        "export",
        "--to",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, timeout=120, check=True)
    file = tmp_path / "model.onnx"
    file.write_bytes(done.stdout)
    assert Model.load(file).metadata["run_id"] == stack.served_run()


def test_mlflow_refuses_unknown_host_names(stack: Stack) -> None:
    refused = httpx.post(
        f"{stack.tracking}/api/2.0/mlflow/experiments/search", json={}, headers={"Host": "elsewhere:5000"}
    )
    assert refused.status_code == 403


@pytest.mark.parametrize("service", ["mlflow", "train", "serve"])
def test_container_has_no_privileges(stack: Stack, service: str) -> None:
    container = stack.inspect(service)
    host = container["HostConfig"]
    assert container["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"]
    assert host["Init"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    published = [port for ports in host["PortBindings"].values() for port in ports]
    assert {port["HostIp"] for port in published} <= {"127.0.0.1"}
    if service != "train":  # its container has exited
        assert docker("exec", container["Id"], "id", "-u").strip() == "10001"
        with pytest.raises(subprocess.CalledProcessError):
            docker("exec", container["Id"], "touch", "/opt/venv/written")
        wait_for(
            lambda: stack.inspect(service)["State"]["Health"]["Status"] == "healthy",
            60,
            "the container was not healthy",
        )


def test_serve_image_is_small_and_has_neither_torch_nor_mlflow(stack: Stack) -> None:
    image = stack.inspect("serve")["Image"]
    base = os.environ.get("BASE_IMAGE", "python:3.13-slim")
    over_base = int(docker("inspect", "-f", "{{.Size}}", image)) - int(docker("inspect", "-f", "{{.Size}}", base))
    assert over_base <= 320 * MEGABYTE
    listing = "from importlib.metadata import distributions as all; print([each.name for each in all()])"
    installed = docker("run", "--rm", "--network", "none", image, "python", "-c", listing)
    assert "'mlflow-skinny'" in installed
    assert "'torch'" not in installed
    assert "'mlflow'" not in installed


def test_idle_mlflow_and_service_use_little_memory(stack: Stack, answers: Answers) -> None:
    time.sleep(5)  # until the memory of the last request is free
    containers = [stack.container(service) for service in ("mlflow", "serve")]
    usage = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *containers)
    used = [in_bytes(line.split("/")[0].strip()) for line in usage.splitlines()]
    assert len(used) == 2
    assert sum(used) < 900 * MEGABYTE


def in_bytes(text: str) -> float:
    """Convert a size of Docker, such as `123.4MiB`, to bytes."""
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "kB": 1000, "B": 1}
    unit = next(unit for unit in units if text.endswith(unit))
    return float(text.removesuffix(unit)) * units[unit]


def test_second_up_does_not_train_again(stack: Stack) -> None:
    before = stack.runs()
    logged = stack.log("train")
    stack.up()
    assert stack.inspect("train")["State"]["ExitCode"] == 0
    news = stack.log("train").removeprefix(logged).strip().splitlines()
    # a reason, not a training
    assert [line.split()[1] for line in news] == ["Data:", "Device:", "Tracking:", "Version", "Runs:", "Champion:"]
    assert "http://localhost:" in news[-2]  # an address that a browser on this machine can open
    assert [run["info"]["run_id"] for run in stack.runs()] == [run["info"]["run_id"] for run in before]


@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["empty", "not readable"])
def test_wrong_folder_is_refused_before_training(stack: Stack, tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)  # the user in the container is not the owner
    ended = stack.compose("run", "--rm", "--no-deps", "train", check=False, MNIST_DIR=str(tmp_path))
    assert ended.returncode == 2, ended.stderr
    assert "MNIST_DIR" in (ended.stdout + ended.stderr).strip().splitlines()[-1]


def test_model_survives_down_and_up(stack: Stack, test_digits: Digits) -> None:
    version = httpx.get(f"{stack.service}/model").json()["version"]
    stack.compose("down", "--timeout", "30")
    stack.up(timeout=120)  # too short for training
    assert httpx.get(f"{stack.service}/model").json()["version"] == version
    images, labels = test_digits
    answer = httpx.post(f"{stack.service}/predict/raw", content=images[0].tobytes()).raise_for_status()
    assert answer.json()[0]["digit"] == labels[0]


def test_no_model_is_served_below_the_minimum_accuracy(another_stack: Callable[..., Stack]) -> None:
    stack = another_stack(PIPELINE_SUBSET="tenth", PIPELINE_RECIPE="dense", PIPELINE_MINIMUM_ACCURACY="1.0")
    failed = stack.compose("up", "--detach", check=False, timeout=600)
    assert failed.returncode != 0
    assert stack.inspect("train")["State"]["ExitCode"] != 0
    assert stack.inspect("serve")["State"]["Status"] == "created"
    last = stack.log("train").strip().splitlines()[-1]
    assert "no champion" in last, last
    assert "100.00%" in last, last
