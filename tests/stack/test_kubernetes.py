"""The pods of `deploy/kubernetes` as containers: MLflow and the service, under the contexts of their manifests.

They need no cluster to show that the images run so. MLflow has SQLite here in place of its stores.
"""

import shutil
from collections.abc import Callable, Iterator

import httpx
import pytest
from mlflow import MlflowClient

from ..deploy.manifests import overlay, pods
from ..serving.handmade import GREY, write_model
from ..serving.registry import Registry
from .compose import BUILD_SECONDS, docker, wait_for
from .pods import Container, built

pytestmark = [pytest.mark.stack, pytest.mark.scale]

DIGIT = bytes(784)
IN_CLUSTER = {"Host": "serve.digits.svc.cluster.local"}
TOKEN = "s3cret-s3cret-s3cret"
SECRETS = {"serve-tokens": {"tokens": f"{TOKEN}\n"}}
# In place of the references to Secrets.
STORES = {
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////tmp/mlflow.db",
    "MLFLOW_ARTIFACTS_DESTINATION": "/tmp/artifacts",
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")

Start = Callable[..., Container]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Return a function that starts the container of a pod: `start(overlay, name)`."""
    if not shutil.which("kubectl"):
        pytest.fail("kubectl is not installed: these tests render deploy/kubernetes with it")
    network = docker("network", "create", f"digits-pods-{id(tmp_path_factory)}").strip()
    started: list[Container] = []

    def make(name: str, part: str, **extra: str) -> Container:
        manifests = overlay(name)
        pod = next(pod for pod in pods(manifests) if pod.name == f"digits-{part}")
        folder = tmp_path_factory.mktemp(part)
        folder.chmod(0o755)
        started.append(Container(manifests, pod, built(part, BUILD_SECONDS), network, folder, SECRETS, extra))
        return started[-1]

    try:
        yield make
    finally:
        for each in started:
            each.remove()
        docker("network", "rm", network)


@pytest.fixture(scope="module")
def mlflow(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """Start the pod of MLflow, with a champion of 28 by 28 pixels that was never trained."""
    pod = start("dev", "mlflow", **STORES)
    for probe in PROBES:
        wait_for(lambda probe=probe: pod.passes(probe), 180, f"{probe} did not pass: {pod.log()[-2000:]}")  # type: ignore[misc]
    folder = tmp_path_factory.mktemp("champion")
    client = MlflowClient(pod.address(5000))
    client.create_registered_model("digits")
    Registry(pod.address(5000), client, folder).register(
        write_model(folder / "model.onnx", {**GREY, "height": 28, "width": 28})
    )
    return pod


@pytest.mark.parametrize("name", ["dev", "prod", "kserve"])
def test_pod_of_the_service_answers_and_writes_where_it_may_and_ends(
    start: Start, mlflow: Container, name: str
) -> None:
    pod = start(name, "serve")
    for probe in PROBES:
        wait_for(lambda probe=probe: pod.passes(probe), 120, f"{probe} did not pass: {pod.log()[-2000:]}")  # type: ignore[misc]
    url = f"{pod.address(3000)}/predict/raw"
    access = {} if name == "dev" else {"Authorization": f"Bearer {TOKEN}"}
    answered = httpx.post(url, content=DIGIT, headers=IN_CLUSTER | access, timeout=60)
    assert answered.status_code == 200, answered.text
    assert answered.headers["X-Model-Version"] == "1"
    assert httpx.post(url, content=DIGIT, headers={"Host": "elsewhere"} | access, timeout=60).status_code == 421
    without = httpx.post(url, content=DIGIT, headers=IN_CLUSTER, timeout=60)
    assert without.status_code == (401 if access else 200)
    mounts = [mount["mountPath"] for mount in pod.pod.container["volumeMounts"]]
    assert sorted(path for path in mounts if pod.may_write(path)) == ["/cache", "/tmp"]
    assert not any(pod.may_write(path) for path in ("/app", "/opt/venv", "/var/tmp"))
    assert pod.stop() == 0


def test_service_without_a_champion_lives_and_is_not_ready(start: Start) -> None:
    pod = start("dev", "serve", MLFLOW_TRACKING_URI="http://nowhere:5000")
    for probe in ("startupProbe", "livenessProbe"):
        wait_for(lambda probe=probe: pod.passes(probe), 120, f"{probe} did not pass: {pod.log()[-2000:]}")  # type: ignore[misc]
    assert not pod.passes("readinessProbe")


def test_pod_that_trains_registers_a_version_and_writes_where_it_may(start: Start, mlflow: Container) -> None:
    pod = start("dev", "train", PIPELINE_SUBSET="tenth", PIPELINE_RECIPE="dense")
    wait_for(lambda: "epoch 1/" in pod.log(), 180, "no epoch ended")
    mounts = [mount["mountPath"] for mount in pod.pod.container["volumeMounts"]]
    assert sorted(path for path in mounts if pod.may_write(path)) == ["/state", "/tmp"]
    assert not any(pod.may_write(path) for path in ("/app", "/opt/venv", "/var/tmp"))
    assert pod.wait() == 0, pod.log()[-2000:]
    versions = MlflowClient(mlflow.address(5000)).search_model_versions("name = 'digits'")
    assert sorted(int(version.version) for version in versions) == [1, 2]


def test_pod_that_trains_ends_within_its_grace(start: Start, mlflow: Container) -> None:
    assert mlflow.passes("readinessProbe")
    pod = start("dev", "train", PIPELINE_SUBSET="tenth", PIPELINE_RECIPE="chapter")
    wait_for(lambda: "epoch 1/" in pod.log(), 180, "no epoch ended")
    assert pod.stop() == 130, pod.log()[-2000:]
    assert "Traceback" not in pod.log()


def test_mlflow_answers_to_its_names_alone_and_ends(mlflow: Container) -> None:
    search = f"{mlflow.address(5000)}/api/2.0/mlflow/registered-models/search"
    for host, status in (("mlflow:5000", 200), ("mlflow.digits.svc:5000", 200), ("elsewhere:5000", 403)):
        assert httpx.get(search, headers={"Host": host}, timeout=60).status_code == status, host
    assert mlflow.may_write("/tmp")
    assert not any(mlflow.may_write(path) for path in ("/opt/venv", "/var/tmp"))
    assert mlflow.stop() in (0, 143), mlflow.log()[-2000:]
