"""Container files and locks, checked without an engine."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import environment_variables
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.settings import CompareSettings, TrainSettings, variable
from serving.settings import Settings as ServingSettings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
LOCKS = ("tracking", "accounts", "team", "cluster", "train", "serve", "run", "scale", "dev")
IMAGES = ("tracking", "train", "serve")
FILES = ("Dockerfile.train", "Dockerfile.serve", "deploy/haproxy/Dockerfile", "deploy/postgres/Dockerfile")


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
    others = {
        "serve": "Dockerfile.serve",
        "proxy": "deploy/haproxy/Dockerfile",
        "postgres": "deploy/postgres/Dockerfile",
    }
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


@pytest.mark.parametrize("image", [*IMAGES, "proxy", "postgres"])
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


@pytest.mark.parametrize("file", FILES)
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


def overlay(name: str) -> dict[str, Any]:
    """Return the content of an overlay, without the marks that only Compose knows."""
    text = (ROOT / f"docker-compose.{name}.yml").read_text()
    content: dict[str, Any] = yaml.safe_load(re.sub(r"!(?:reset|override)", "", text))
    return content


@pytest.mark.parametrize("name", ["secure", "team"])
def test_overlay_takes_secrets_from_files_alone(name: str) -> None:
    content = overlay(name)
    named = {
        each if isinstance(each, str) else each["source"]
        for service in content["services"].values()
        for each in service.get("secrets", [])
    }
    assert named == content["secrets"].keys()
    assert all(list(secret) == ["file"] for secret in content["secrets"].values())
    variables = {
        name: value
        for service in content["services"].values()
        for name, value in service.get("environment", {}).items()
    }
    secret = [name for name in variables if re.search("TOKEN|PASSWORD|AUTH|SECRET|ACCESS_KEY", name)]
    assert secret
    assert all(variables[name].startswith("/run/secrets/") for name in secret)


def test_secrets_script_makes_the_files_that_the_overlays_name(tmp_path: Path) -> None:
    for _ in range(2):  # the second run changes nothing
        subprocess.run(["sh", "deploy/secrets.sh", str(tmp_path / "secrets")], cwd=ROOT, check=True)
        made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
        password = made["postgres.password"].strip()
        assert f"\npassword={password}\n" in made["postgres.conf"]
    named = overlay("secure")["secrets"].keys() | overlay("team")["secrets"].keys()
    assert named - made.keys() == {"s3.ini"}  # the store makes its keys


def test_services_of_the_team_are_hardened_and_start_in_order_of_health() -> None:
    services = overlay("team")["services"]
    for name in ("postgres", "migrate"):
        assert services[name]["read_only"]
        assert services[name]["init"]
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in services[name]
    assert services["postgres"]["healthcheck"]["test"][1] == "pg_isready"
    for name in ("mlflow", "migrate"):
        assert services[name]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert COMPOSE["train"]["depends_on"] == {"mlflow": {"condition": "service_healthy"}}


def test_clients_of_the_team_fetch_artifacts_through_the_server() -> None:
    services = overlay("team")["services"]
    for client in ("train", "serve"):
        environment = services[client]["environment"]
        assert set(environment.values()) == {"false"}
        for name in environment:  # MLflow knows them
            assert getattr(environment_variables, name).name == name


def test_team_image_has_two_workers_or_more_and_its_own_lock() -> None:
    for stage in ("tracking-team", "train-team"):
        assert "source=requirements/team.txt," in stages()[stage]
    workers = re.search(r"MLFLOW_WORKERS=(\d+)", stages()["tracking-team"])
    assert workers
    assert int(workers[1]) >= 2
    assert (
        overlay("team")["services"]["mlflow"]["environment"]["MLFLOW_WORKERS"] == f"${{MLFLOW_WORKERS:-{workers[1]}}}"
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
    services = overlay("gpu")["services"]
    assert services.keys() == {"train"}
    assert services["train"]["build"]["args"] == {"TORCH_INDEX_URL": ""}
    assert services["train"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


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


@pytest.mark.parametrize(("lock", "package"), [("scale", "kubernetes-validate"), ("cluster", "ray")])
def test_what_few_need_stays_out_of_all_other_locks(lock: str, package: str) -> None:
    tested = locked("dev")
    assert {name: found for name, found in locked(lock).items() if tested.get(name, found) != found} == {}
    assert [each for each in LOCKS if package in locked(each)] == [lock]


def test_the_lock_of_the_team_adds_only_what_it_needs() -> None:
    tested, added = locked("dev"), locked("team")
    needed = {"boto3", "botocore", "jmespath", "psycopg", "psycopg-binary", "s3transfer", "six"}
    assert added.keys() - tested.keys() == needed
    # botocore needs an earlier one, and so does MLflow, which allows both.
    assert {name for name in added.keys() & tested.keys() if added[name] != tested[name]} == {"python-dateutil"}
    assert not (needed - {"six"}) & {name for lock in ("tracking", "train", "serve", "run") for name in locked(lock)}


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
