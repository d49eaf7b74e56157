"""What the container files and the locks promise, as far as it can be read without an engine."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.settings import CompareSettings, TrainSettings, variable
from serving.settings import Settings as ServingSettings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
LOCKS = ("tracking", "train", "serve", "dev")


def locked(name: str) -> dict[str, set[str]]:
    """The versions of each package in a lock file; more than one where Pythons differ."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9.-]+)==([^ ]+)", text, re.MULTILINE):
        versions.setdefault(package, set()).add(version)
    return versions


def test_compose_hands_every_training_setting_on():
    known = {variable(field) for kind in (TrainSettings, CompareSettings) for field in kind.model_fields}
    # Where it writes is the image's choice: the folder that is a volume.
    assert known - COMPOSE["train"]["environment"].keys() == {"PIPELINE_STATE_DIR"}


def test_compose_hands_every_setting_of_the_service_on():
    known = {f"SERVING_{field.upper()}" for field in ServingSettings.model_fields}
    # The folder that is a volume, and a file instead of the registry: a container that needs one mounts it.
    assert known - COMPOSE["serve"]["environment"].keys() == {"SERVING_CACHE_DIR", "SERVING_MODEL"}


@pytest.mark.parametrize("service", COMPOSE)
def test_every_service_is_hardened_and_bound_to_this_machine(service):
    described = COMPOSE[service]
    assert described["read_only"]
    assert described["init"]
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in described.get("ports", []))


def test_the_overlay_hands_the_gpu_to_training_alone():
    overlay = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert overlay.keys() == {"train"}
    assert overlay["train"]["build"]["args"] == {"TORCH_INDEX_URL": ""}
    assert overlay["train"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("extra", LOCKS)
def test_a_lock_satisfies_its_extra(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    by_version = {"torch", "torchvision"}
    versions = locked(extra)
    for text in project["optional-dependencies"][extra]:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        if name != project["name"] and name not in by_version:
            assert all(wanted.specifier.contains(version) for version in versions[name]), text


@pytest.mark.parametrize("image", ["tracking", "train", "serve"])
def test_an_image_ships_the_versions_that_are_tested(image):
    tested = locked("dev")
    assert {name: versions for name, versions in locked(image).items() if versions != tested[name]} == {}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_names_no_address(lock):
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert text.count("==") <= text.count("--hash=sha256:")
    assert all(re.search(r"\\\n +--hash=", entry) for entry in re.split(r"\n(?=[a-z])", text)[1:])


def test_the_service_needs_neither_torch_nor_the_whole_of_mlflow():
    assert not {"torch", "torchvision", "mlflow", "scipy", "matplotlib"} & locked("serve").keys()
