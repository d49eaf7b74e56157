"""Version, licence, workflows and installation are consistent."""

import importlib.util
import json
import re
import secrets
import socket
import string
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import pipeline
import serving

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    """Return the script that installs the requirements, as a module."""
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci" / "install.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_packages_have_the_version_of_the_project() -> None:
    assert pipeline.__version__ == serving.__version__ == PROJECT["version"]


def test_changelog_has_the_version_of_the_project() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "\n## Unreleased\n" in changelog
    assert re.search(rf"^## {re.escape(PROJECT['version'])} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)


def test_licence_is_apache() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("package", ["pipeline", "preparation", "serving"])
def test_packages_ship_their_types(package: str) -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data[package]
    assert (ROOT / package / "py.typed").exists()


def test_console_script_is_the_command_line() -> None:
    module, _, function = PROJECT["scripts"]["digits"].partition(":")
    assert module == "pipeline.__main__"
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_by_hash_and_name_their_tag(file: Path) -> None:
    used = re.findall(r"uses: (.*)$", file.read_text(), re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflow_grants_permissions_per_job_only(file: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert job["permissions"]["contents"] == "read"
        assert job["timeout-minutes"]


def test_workflows_run_targets_of_make_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"run: make ([a-z-]+)", "\n".join(file.read_text() for file in WORKFLOWS)))
    assert used == {"lint", "types", "unit", "docs", "up"}
    assert used <= targets


def test_images_are_built_for_both_architectures_from_existing_stages() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text())["jobs"]["image"]
    assert job["steps"][-1]["with"]["platforms"] == "linux/amd64,linux/arm64"
    for image in job["strategy"]["matrix"]["include"]:
        dockerfile = (ROOT / image["file"]).read_text()
        assert "target" not in image or f" AS {image['target']}\n" in dockerfile


def test_hooks_run_each_linter_of_make() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text()
    recipes = makefile[makefile.index("\nlint:") : makefile.index("\nunit:")]
    linters = re.findall(r"^\t\$\(BIN\)/(.*)$", recipes, re.MULTILINE)
    entries = [hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in hooks]
    assert sorted(entries) == sorted(linter.removesuffix(" .") for linter in linters)


def test_hadolint_reads_every_dockerfile() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    dockerfiles = [path for path in listed.splitlines() if "Dockerfile" in Path(path).name]
    linted = re.search(r"\$\(BIN\)/hadolint --failure-threshold style (.*)", (ROOT / "Makefile").read_text())
    assert linted
    assert sorted(linted[1].split()) == sorted(dockerfiles)


def test_secret_in_an_earlier_commit_is_found_and_not_repeated(tmp_path: Path) -> None:
    token = "ghp_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(36))
    (tmp_path / "notes.txt").write_text(f'token = "{token}"\n')
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init"], ["add", "."], ["commit", "-m", "add"], ["rm", "notes.txt"], ["commit", "-m", "remove"]):
        subprocess.run(["git", *author, *command], cwd=tmp_path, check=True, capture_output=True)
    linter = re.search(r"\$\(BIN\)/(kingfisher scan) \. (.*)", (ROOT / "Makefile").read_text())
    assert linter
    scan = f"{Path(sys.executable).parent}/{linter[1]} {tmp_path} {linter[2]}".split()
    done = subprocess.run(scan, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "notes.txt" in done.stdout
    assert token not in done.stdout + done.stderr


def test_dependabot_updates_packages_images_and_actions() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "docker", "github-actions"}


def test_devcontainer_forwards_service_and_mlflow() -> None:
    described = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert described["forwardPorts"] == [3000, 5000]


def test_sources_have_lf_line_ends() -> None:
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = [line for line in listed.splitlines() if "attr/-text" not in line]
    assert [line for line in texts if "crlf" in line or "mixed" in line] == []
    assert "* text=auto eol=lf\n" in (ROOT / ".gitattributes").read_text()


def test_run_checks_the_port_before_training() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = ["make", "--no-print-directory", "run", f"SERVE_PORT={port}", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert done.stdout == ""
    reason = "address already in use"
    assert done.stderr.startswith(f"Port {port} is unavailable ({reason}). Choose another: SERVE_PORT=3400 make run\n")


def test_uv_gets_the_configuration_of_pip(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    listed = "\n".join(
        [
            ":env:.index-url='https://env.example/simple'",
            "global.cert='/etc/ca.crt'",
            "global.extra-index-url='https://one.example https://two.example'",
            "global.find-links='\\n/wheels\\n/more'",
            "global.index-url='https://global.example/simple'",
            "global.timeout='60'",
            "install.index-url='https://install.example/simple'",
        ]
    )
    assert installer.uv_environment(listed) == {
        "UV_DEFAULT_INDEX": "https://env.example/simple",
        "UV_INDEX": "https://one.example https://two.example",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/etc/ca.crt",
    }
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    assert "UV_DEFAULT_INDEX" not in installer.uv_environment(listed)


def test_uv_is_bootstrapped_from_its_locked_hashes(installer: ModuleType) -> None:
    entry = installer.locked_uv()
    assert re.match(r"uv==[0-9.]+ \\\n", entry)
    assert entry.count("--hash=sha256:") > 1
    assert len(re.findall(r"^[a-z]", entry, re.MULTILINE)) == 1
