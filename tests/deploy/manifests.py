"""The manifests of `deploy/kubernetes`, as kubectl renders them."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..test_containers import stages

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("dev", "prod", "gpu", "kserve", "ray")
NAME = "app.kubernetes.io/name"
# By the label of a pod. The stage of the team adds packages to `tracking`, and no instruction of those compared here.
STAGES = {"digits-mlflow": "tracking", "digits-train": "train", "digits-serve": "serve"}
# Fields that an InferenceService has next to those of a pod.
OF_KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy", "labels"}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A kind of pods: the manifest that makes them, their labels and their specification."""

    owner: Manifest
    labels: dict[str, str]
    spec: Manifest

    @property
    def name(self) -> str:
        """The label by which everything else finds the pods."""
        return self.labels[NAME]

    @property
    def stage(self) -> str:
        """The instructions of the Dockerfile, without those of the stages below it; empty for foreign images."""
        return stages()[STAGES[self.name]] if self.name in STAGES else ""

    @property
    def container(self) -> Manifest:
        """The only container besides those that run before it."""
        (container,) = self.spec["containers"]
        found: Manifest = container
        return found

    @property
    def containers(self) -> list[Manifest]:
        """All containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


@cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """Return the manifests of a folder with a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[Manifest, ...]:
    """Return the manifests of an overlay."""
    return render(FOLDER / "overlays" / name)


def render_with(folder: Path, overlay: str, component: str) -> tuple[Manifest, ...]:
    """Return an overlay with a component, from a kustomization in `folder`."""
    resource, added = (
        os.path.relpath(FOLDER / kind, folder.resolve()) for kind in (f"overlays/{overlay}", f"components/{component}")
    )
    (folder / "kustomization.yml").write_text(yaml.safe_dump({"resources": [resource], "components": [added]}))
    return render(folder)


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    """Return the manifests of some kinds."""
    return [each for each in manifests if each["kind"] in kinds]


def one(manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    """Return the only manifest of this kind and name."""
    (found,) = [each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name]
    return found


def pods(manifests: tuple[Manifest, ...]) -> list[Pod]:
    """Return all kinds of pods."""
    return list(_pods(manifests))


def _pods(manifests: tuple[Manifest, ...]) -> Iterator[Pod]:
    for each in manifests:
        if each["kind"] == "InferenceService":
            predictor = each["spec"]["predictor"]
            spec = {field: value for field, value in predictor.items() if field not in OF_KSERVE}
            yield Pod(each, predictor["labels"], spec)
        elif each["kind"] == "RayCluster":
            for group in (each["spec"]["headGroupSpec"], *each["spec"]["workerGroupSpecs"]):
                yield Pod(each, group["template"]["metadata"]["labels"], group["template"]["spec"])
        else:
            spec = each.get("spec", {})
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template:
                yield Pod(each, template["metadata"]["labels"], template["spec"])


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Return whether labels match a selector; an empty one matches all."""
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def environment(manifests: tuple[Manifest, ...], container: Manifest) -> dict[str, Any]:
    """Return the variables of a container: a text, or the reference to a secret."""
    found: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        found |= one(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container.get("env", []):
        found[each["name"]] = each["value"] if "value" in each else each["valueFrom"]
    return found


def ports(container: Manifest) -> dict[str, int]:
    """Return the ports of a container by name."""
    return {each["name"]: each["containerPort"] for each in container.get("ports", [])}


def exposed(stage: str) -> list[int]:
    """Return the ports of EXPOSE."""
    return [int(port) for line in re.findall(r"^EXPOSE (.*)$", stage, re.MULTILINE) for port in line.split()]
