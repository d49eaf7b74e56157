"""The rendered overlays; both tools must be there, because a test that is skipped proves nothing."""

import shutil
from pathlib import Path

import pytest

from .manifests import OVERLAYS, ROOT, Manifest, overlay

VALIDATOR = ROOT / ".venv-scale" / "bin" / "kubernetes-validate"


@pytest.fixture(autouse=True, scope="session")
def _kubectl() -> None:
    if not shutil.which("kubectl"):
        pytest.fail("kubectl is not installed: these tests render deploy/kubernetes with it")


@pytest.fixture(scope="session")
def validator() -> Path:
    """Return the command that compares manifests with the schemas of Kubernetes."""
    if not VALIDATOR.exists():
        pytest.fail("kubernetes-validate is not installed: run these tests by `make test-scale`")
    return VALIDATOR


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    """The manifests of each overlay."""
    name: str = request.param
    return overlay(name)
