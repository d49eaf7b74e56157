"""Each manifest against the schemas of three versions of Kubernetes, unknown fields refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.extras import installed

from .manifests import Manifest, of_kind, one, overlay, pods, render_with

pytestmark = pytest.mark.scale

VERSIONS = ("1.35", "1.36", "1.37")
FOREIGN_KINDS = ("InferenceService", "RayCluster")


def validate(file: Path, version: str, manifests: list[Manifest]) -> subprocess.CompletedProcess[str]:
    file.write_text(yaml.safe_dump_all(manifests))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "--kubernetes-version", version, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(installed("scale"))}
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


def with_known_schemas(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    """The kinds of KServe and KubeRay become the pods that they make: Kubernetes has no schema of the rest."""
    made = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "made"}, "spec": pod.spec}
        for pod in pods(manifests)
        if pod.owner["kind"] in FOREIGN_KINDS
    ]
    return [each for each in manifests if each["kind"] not in FOREIGN_KINDS] + made


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_have_the_schema_of(version: str, manifests: tuple[Manifest, ...], tmp_path: Path) -> None:
    known = with_known_schemas(manifests)
    done = validate(tmp_path / "manifests.yml", version, known)
    assert done.returncode == 0, done.stdout
    # A kind without a schema is a mere warning.
    assert done.stdout.count(" passed for resource ") == len(known), done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_metrics_of_your_own_have_the_schema_of(version: str, tmp_path: Path) -> None:
    rendered = list(render_with(tmp_path, "prod", "custom-metrics"))
    done = validate(tmp_path / "manifests.yml", version, rendered)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" passed for resource ") == len(rendered), done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_misspelt_field_is_refused_by(version: str, tmp_path: Path) -> None:
    budget = one(overlay("prod"), "PodDisruptionBudget", "serve")
    misspelt = {**budget, "spec": {**budget["spec"], "maxUnavailible": 1}}
    done = validate(tmp_path / "manifests.yml", version, [misspelt])
    assert done.returncode != 0
    assert "maxUnavailible" in done.stdout


def test_only_kserve_and_kuberay_have_kinds_of_their_own(manifests: tuple[Manifest, ...]) -> None:
    foreign = {each["apiVersion"] for each in manifests if "." in each["apiVersion"]}
    foreign -= {each for each in foreign if ".k8s.io/" in each}
    assert foreign == {each["apiVersion"] for each in of_kind(manifests, *FOREIGN_KINDS)}
