"""Approvals of models are shared by the tests of this folder: a verification starts a process."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _default_cache(_own_environment: None, _shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to `var` of the checkout."""
    monkeypatch.setenv("SERVING_CACHE_DIR", str(_shared_cache))
