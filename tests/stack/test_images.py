"""Statements of the built images: their contents, their version and their base."""

import json
import os
import tomllib

import pytest
from packaging.utils import canonicalize_name

from ..bills import assert_valid, listed
from .compose import ROOT, Stack, docker

pytestmark = pytest.mark.stack

BILL = "/usr/share/sbom/digits.cdx.json"
LISTING = (
    "import importlib.metadata as m; print(*(f'{each.name} {each.version}' for each in m.distributions()), sep='\\n')"
)


def in_image(image: str, *command: str) -> str:
    return docker("run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:])


@pytest.mark.parametrize("service", ["mlflow", "train", "serve"])
def test_image_has_a_bill_of_everything_in_it(stack: Stack, service: str) -> None:
    image = stack.inspect(service)["Image"]
    bill = json.loads(in_image(image, "cat", BILL))
    assert_valid(bill)
    assert bill["metadata"]["component"]["name"] == f"digits-{service}"
    installed = [line.split() for line in in_image(image, "python", "-c", LISTING).splitlines()]
    assert len(installed) > 50
    assert {(canonicalize_name(name), version) for name, version in installed} - listed(bill, "pypi") == set()
    debian = in_image(image, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n").splitlines()
    assert {tuple(line.split()) for line in debian} == listed(bill, "deb")
    assert len(listed(bill, "generic")) == 1


@pytest.mark.parametrize("service", ["mlflow", "train", "serve"])
def test_image_names_its_version_and_its_base(stack: Stack, service: str) -> None:
    image = json.loads(docker("inspect", stack.inspect(service)["Image"]))[0]
    prefix = "org.opencontainers.image."
    stated = {name.removeprefix(prefix): value for name, value in image["Config"]["Labels"].items() if prefix in name}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert stated["version"] == project["version"]
    assert stated["base.name"] == os.environ.get("BASE_IMAGE", "python:3.13-slim")
    assert stated["base.digest"] == os.environ.get("BASE_DIGEST", "")
