"""The rendered overlays; kubectl must be there, because a test that is skipped proves nothing."""

import shutil

import pytest

from .manifests import OVERLAYS, Manifest, overlay


@pytest.fixture(autouse=True, scope="session")
def _kubectl() -> None:
    if not shutil.which("kubectl"):
        pytest.fail("kubectl is not installed: these tests render deploy/kubernetes with it")


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    """The manifests of each overlay."""
    name: str = request.param
    return overlay(name)
