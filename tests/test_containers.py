"""Container files and locks, checked without an engine."""

import json
import re
import shlex
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
LOCKS = ("tracking", "accounts", "train", "serve", "run", "scale", "dev")
IMAGES = ("tracking", "train", "serve")


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions of each package in a lock file; more than one if they differ by Python."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9.-]+)==([^ ]+)", text, re.MULTILINE):
        versions.setdefault(package, set()).add(version)
    return versions


def stages() -> dict[str, str]:
    """Return the instructions of each image, by its stage or by its file."""
    train = re.split(r"^FROM .* AS ", (ROOT / "Dockerfile.train").read_text(), flags=re.MULTILINE)
    named = {name: text for name, _, text in (part.partition("\n") for part in train[1:])}
    others = {"serve": "Dockerfile.serve", "proxy": "deploy/haproxy/Dockerfile"}
    return named | {name: (ROOT / file).read_text() for name, file in others.items()}


def test_compose_hands_every_training_setting_on() -> None:
    known = {variable(field) for kind in (TrainSettings, CompareSettings) for field in kind.model_fields}
    # The image sets the output directory: it is a volume.
    assert known - COMPOSE["train"]["environment"].keys() == {"PIPELINE_STATE_DIR"}


def test_compose_hands_every_setting_of_the_service_on() -> None:
    known = {f"SERVING_{field.upper()}" for field in ServingSettings.model_fields}
    # The cache is a volume; a container that serves a file instead of the registry mounts it.
    assert known - COMPOSE["serve"]["environment"].keys() == {"SERVING_CACHE_DIR", "SERVING_MODEL"}


@pytest.mark.parametrize(("service", "stage"), [("mlflow", "tracking"), ("serve", "serve")])
def test_compose_has_the_health_check_of_the_image(service: str, stage: str) -> None:
    found = re.search(r"^HEALTHCHECK (.*?)\\\n +CMD (\[.*\])$", stages()[stage], re.MULTILINE)
    assert found
    options = dict(option.removeprefix("--").split("=") for option in shlex.split(found.group(1)))
    described = COMPOSE[service]["healthcheck"]
    assert described["test"] == ["CMD", *json.loads(found.group(2))]
    assert {name.replace("_", "-"): str(value) for name, value in described.items() if name != "test"} == options


@pytest.mark.parametrize("image", [*IMAGES, "proxy"])
def test_image_is_labelled(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    instructions = stages()[image]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', instructions))
    assert labels.keys() == {"title", "licenses", "version", "revision", "base.name", "base.digest"}
    assert labels["licenses"] == project["license"]
    assert labels["version"] == "${VERSION}"
    assert labels["revision"] == "${GIT_COMMIT}"
    assert labels["base.name"] == "${BASE_IMAGE}"
    assert labels["base.digest"] == "${BASE_DIGEST}"
    assert re.findall(r"^ARG (VERSION=.*|GIT_COMMIT=)$", instructions, re.MULTILINE).count("GIT_COMMIT=") == 1
    assert f"\nARG VERSION={project['version']}\n" in instructions


@pytest.mark.parametrize("image", IMAGES)
def test_only_the_locks_of_an_image_install_its_packages_again(image: str) -> None:
    mounted = re.findall(r"type=bind,source=(requirements\S*),", stages()[image])
    lock = [] if image == "tracking" else [f"requirements/{image}.txt"]  # its packages are those of the stage `base`
    assert mounted == lock + ["requirements/torch.txt"] * (image == "train")


@pytest.mark.parametrize("file", ["Dockerfile.train", "Dockerfile.serve", "deploy/haproxy/Dockerfile"])
def test_base_image_can_be_named_by_its_digest(file: str) -> None:
    instructions = (ROOT / file).read_text()
    assert "\nFROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}" in instructions
    for service in COMPOSE.values():
        assert service["build"]["args"]["BASE_DIGEST"] == "${BASE_DIGEST:-}"


def test_mlflow_with_accounts_runs_the_same_command() -> None:
    commands = {
        stage: re.findall(r"^CMD (\[.*?\])$", text, re.MULTILINE | re.DOTALL) for stage, text in stages().items()
    }
    assert len(commands["tracking"]) == 1
    assert commands["tracking-accounts"] == commands["tracking"]


def test_secure_overlay_takes_secrets_from_files_alone() -> None:
    text = re.sub(r"!(?:reset|override)", "", (ROOT / "docker-compose.secure.yml").read_text())
    overlay = yaml.safe_load(text)
    named = {
        each if isinstance(each, str) else each["source"]
        for service in overlay["services"].values()
        for each in service["secrets"]
    }
    assert named == overlay["secrets"].keys()
    assert all(list(secret) == ["file"] for secret in overlay["secrets"].values())
    variables = {
        name: value
        for service in overlay["services"].values()
        for name, value in service.get("environment", {}).items()
    }
    assert all(
        value.startswith("/run/secrets/") for name, value in variables.items() if re.search("TOKEN|PASSWORD|AUTH", name)
    )


@pytest.mark.parametrize("service", COMPOSE)
def test_every_service_is_hardened_and_bound_to_this_machine(service: str) -> None:
    described = COMPOSE[service]
    assert described["read_only"]
    assert described["init"]
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in described.get("ports", []))


def test_the_overlay_hands_the_gpu_to_training_alone() -> None:
    overlay = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert overlay.keys() == {"train"}
    assert overlay["train"]["build"]["args"] == {"TORCH_INDEX_URL": ""}
    assert overlay["train"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("extra", LOCKS)
def test_a_lock_satisfies_its_extra(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    by_version = {"torch", "torchvision"}
    versions = locked(extra)
    for text in project["optional-dependencies"][extra]:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        if name != project["name"] and name not in by_version:
            assert all(wanted.specifier.contains(version) for version in versions[name]), text


@pytest.mark.parametrize("image", [*IMAGES, "accounts", "run"])
def test_every_lock_has_the_versions_that_are_tested(image: str) -> None:
    tested = locked("dev")
    assert {name: versions for name, versions in locked(image).items() if versions != tested[name]} == {}


def test_schemas_of_kubernetes_stay_out_of_all_other_locks() -> None:
    tested = locked("dev")
    alone = locked("scale")
    assert {name: versions for name, versions in alone.items() if tested.get(name, versions) != versions} == {}
    assert [lock for lock in LOCKS if "kubernetes-validate" in locked(lock)] == ["scale"]


def test_running_needs_no_linters_and_no_test_tools() -> None:
    only_for_development = {"keras", "mypy", "playwright", "pytest", "ruff", "schemathesis", "uv"}
    assert only_for_development <= locked("dev").keys()
    assert not only_for_development & locked("run").keys()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_names_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert text.count("==") <= text.count("--hash=sha256:")
    assert all(re.search(r"\\\n +--hash=", entry) for entry in re.split(r"\n(?=[a-z])", text)[1:])


def test_the_service_needs_neither_torch_nor_the_whole_of_mlflow() -> None:
    assert not {"torch", "torchvision", "mlflow", "scipy", "matplotlib"} & locked("serve").keys()
