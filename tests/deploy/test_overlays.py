"""The changes of each overlay, its secrets, and the page that lists them."""

import json
import os
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..test_docs import rows, section
from .manifests import (
    FOLDER,
    OVERLAYS,
    ROOT,
    Manifest,
    environment,
    of_kind,
    one,
    overlay,
    pods,
    ports,
    render,
    render_with,
)

pytestmark = pytest.mark.scale

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
EXTERNAL = ("prod", "gpu", "kserve", "ray")


def key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def changed(name: str, base: str) -> set[tuple[str, str]]:
    """The objects that differ between two overlays, or that only one of them has."""
    first, second = ({key(each): each for each in overlay(each)} for each in (name, base))
    return {each for each in first.keys() | second.keys() if first.get(each) != second.get(each)}


def secrets(manifests: tuple[Manifest, ...]) -> set[str]:
    """The names of the Secrets that pods and entrances refer to, with their keys."""
    found = set()
    for pod in pods(manifests):
        for container in pod.containers:
            for value in environment(manifests, container).values():
                if isinstance(value, dict):
                    found.add(f"{value['secretKeyRef']['name']}: {value['secretKeyRef']['key']}")
        for volume in pod.spec["volumes"]:
            for item in volume.get("secret", {}).get("items", []):
                found.add(f"{volume['secret']['secretName']}: {item['key']}")
    for entrance in of_kind(manifests, "Ingress"):
        found |= {f"{each['secretName']}: {key}" for each in entrance["spec"]["tls"] for key in ("tls.crt", "tls.key")}
    return found


def test_every_overlay_is_tested_and_described() -> None:
    assert sorted(path.name for path in (FOLDER / "overlays").iterdir()) == sorted(OVERLAYS)
    listed = [row.split("`")[1] for row in rows(section(PAGE, "## Overlays"))]
    assert listed == [f"overlays/{name}" for name in OVERLAYS] + ["components/custom-metrics"]


@pytest.mark.parametrize("name", EXTERNAL)
def test_secrets_are_there_by_reference_alone(name: str) -> None:
    manifests = overlay(name)
    assert of_kind(manifests, "Secret") == []
    for pod in pods(manifests):
        for container in pod.containers:
            for variable, value in environment(manifests, container).items():
                if re.search("SECRET|PASSWORD|TOKEN|KEY|BACKEND_STORE", variable) and not isinstance(value, dict):
                    assert value.startswith("/run/secrets/"), variable
    text = json.dumps(manifests)
    assert "s3cret" not in text
    assert re.findall(r"[a-z]+://[^/\s\"]+@", text) == []


@pytest.mark.parametrize("name", EXTERNAL)
def test_page_lists_every_secret(name: str) -> None:
    cells = [row.split("|")[1:3] for row in rows(section(PAGE, "## Secrets"))]
    listed = {f"{name.strip(' `')}: {one_key.strip(' `')}" for name, keys in cells for one_key in keys.split(",")}
    assert secrets(overlay(name)) == listed


def test_dev_has_every_secret_and_store_inside() -> None:
    manifests = overlay("dev")
    made = {
        f"{re.sub('-[a-z0-9]{10}$', '', secret['metadata']['name'])}: {name}"
        for secret in of_kind(manifests, "Secret")
        for name in secret["data"]
    }
    needed = {re.sub("-[a-z0-9]{10}:", ":", each) for each in secrets(manifests)}
    assert needed == made
    stores = environment(manifests, next(pod for pod in pods(manifests) if pod.name == "digits-mlflow").container)
    assert stores["MLFLOW_S3_ENDPOINT_URL"] == "http://s3:8333"
    assert one(manifests, "Service", "s3")["spec"]["ports"][0]["port"] == 8333


def test_dev_lets_mlflow_in_with_its_own_credentials() -> None:
    (made,) = [each for each in of_kind(overlay("dev"), "Secret") if "mlflow-artifacts" in each["metadata"]["name"]]
    identities = json.loads(_decoded(made, "s3.json"))["identities"]
    (credentials,) = identities[0]["credentials"]
    assert credentials == {
        "accessKey": _decoded(made, "access-key-id"),
        "secretKey": _decoded(made, "secret-access-key"),
    }
    (database,) = [each for each in of_kind(overlay("dev"), "Secret") if "mlflow-database" in each["metadata"]["name"]]
    password = _decoded(database, "password")
    assert _decoded(database, "uri") == f"postgresql+psycopg://mlflow:{password}@postgres:5432/mlflow"


def _decoded(secret: Manifest, name: str) -> str:
    return b64decode(secret["data"][name]).decode()


def test_gpu_goes_to_training_alone() -> None:
    assert changed("gpu", "prod") == {("Job", "train"), ("CronJob", "train")}
    container = one(overlay("gpu"), "Job", "train")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert environment(overlay("gpu"), container)["PIPELINE_DEVICE"] == "cuda"


def test_kserve_runs_the_pod_of_the_deployment() -> None:
    gone = {("Deployment", "serve"), ("HorizontalPodAutoscaler", "serve")}
    assert changed("kserve", "prod") == gone | {("InferenceService", "digits")}
    predictor = one(overlay("kserve"), "InferenceService", "digits")["spec"]["predictor"]
    template = one(overlay("prod"), "Deployment", "serve")["spec"]["template"]
    assert predictor["labels"] == template["metadata"]["labels"]
    (pod,) = [pod for pod in pods(overlay("kserve")) if pod.owner["kind"] == "InferenceService"]
    assert pod.container["name"] == "kserve-container"
    assert {**pod.spec, "containers": [{**pod.container, "name": "serve"}]} == template["spec"]
    scaler = one(overlay("prod"), "HorizontalPodAutoscaler", "serve")["spec"]
    assert predictor["minReplicas"] == scaler["minReplicas"]
    assert predictor["maxReplicas"] == scaler["maxReplicas"]
    target = scaler["metrics"][0]["resource"]
    assert predictor["scaleMetric"] == target["name"]
    assert predictor["scaleTarget"] == target["target"]["averageUtilization"]


def test_ray_runs_the_image_of_comparisons_under_its_own_settings() -> None:
    added = {("RayCluster", "digits"), ("PersistentVolumeClaim", "ray-state")}
    assert changed("ray", "prod") == added | {("NetworkPolicy", "ray"), ("NetworkPolicy", "mlflow-for-ray")}
    cluster = one(overlay("ray"), "RayCluster", "digits")["spec"]
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements" / "cluster.txt").read_text(), re.MULTILINE)
    assert locked
    assert cluster["rayVersion"] == locked[1]
    head, worker = [pod for pod in pods(overlay("ray")) if pod.name == "digits-ray"]
    (train,) = [pod for pod in pods(overlay("ray")) if pod.owner["kind"] == "Job"]
    for pod, group in ((head, cluster["headGroupSpec"]), (worker, cluster["workerGroupSpecs"][0])):
        assert pod.spec["securityContext"] == train.spec["securityContext"]
        assert pod.container["image"].rpartition("/")[2].partition(":")[0] == "train-cluster"
        variables = environment(overlay("ray"), pod.container)
        assert variables.pop("PIPELINE_CLUSTER") == "auto"
        assert variables.pop("RAY_USAGE_STATS_ENABLED") == "0"
        assert variables.items() <= environment(overlay("ray"), train.container).items()
        assert group["rayStartParams"]["node-manager-port"] == str(ports(pod.container)["raylet"])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    cpus = cluster["workerGroupSpecs"][0]["rayStartParams"]["num-cpus"]
    assert worker.container["resources"]["requests"]["cpu"] == cpus


def test_example_of_an_overlay_replaces_every_placeholder(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(apiVersion: .*?)```", section(PAGE, "## Production"), re.DOTALL)
    assert example
    here = os.path.relpath(FOLDER, tmp_path.resolve())
    (tmp_path / "kustomization.yml").write_text(example[1].replace("../digits/deploy/kubernetes", here))
    rendered = render(tmp_path)
    assert "example" not in yaml.safe_dump_all(rendered)
    assert secrets(rendered) == secrets(overlay("prod"))
    (entrance,) = of_kind(rendered, "Ingress")
    serve = one(rendered, "Deployment", "serve")["spec"]["template"]["spec"]["containers"][0]
    assert entrance["spec"]["rules"][0]["host"] in environment(rendered, serve)["SERVING_ALLOWED_HOSTS"].split(",")


def test_custom_metrics_are_those_of_the_service(tmp_path: Path) -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    metrics = set(re.findall(r'"((?:digits|bentoml_service)_[a-z_]+)"', sources))
    rules = yaml.safe_load((FOLDER / "components" / "custom-metrics" / "adapter.yml").read_text())["rules"]["custom"]
    series = [re.match(r"\w+", rule["seriesQuery"]) for rule in rules]
    assert {found.group().removesuffix("_bucket") for found in series if found} <= metrics
    rendered = render_with(tmp_path, "prod", "custom-metrics")
    scaler = one(rendered, "HorizontalPodAutoscaler", "serve")["spec"]
    used = [metric["pods"]["metric"]["name"] for metric in scaler["metrics"] if metric["type"] == "Pods"]
    assert used == [rule["name"]["as"] for rule in rules]
    assert scaler["metrics"][0] == one(overlay("prod"), "HorizontalPodAutoscaler", "serve")["spec"]["metrics"][0]


def test_prometheus_finds_the_metrics(tmp_path: Path) -> None:
    rendered = render_with(tmp_path, "prod", "custom-metrics")
    template: dict[str, Any] = one(rendered, "Deployment", "serve")["spec"]["template"]
    port = template["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port),
        "prometheus.io/path": "/metrics",
    }
    policy = one(rendered, "NetworkPolicy", "metrics")["spec"]["ingress"]
    assert policy[0]["ports"] == [{"port": port}]
