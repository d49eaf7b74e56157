"""The servers of a team, one of each for all tests, and a bucket and a database for each test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .servers import Postgres, packages_and_keys, place_for_postgres, postgres_server, s3_server
from .store import FEWER, registry_of


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; its databases are made by the tests."""
    with place_for_postgres() as folder, postgres_server(folder) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server that takes all keys."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def bucket(s3: str) -> str:
    """A new bucket."""
    name = f"digits-{uuid.uuid4().hex[:8]}"
    httpx.put(f"{s3}/{name}").raise_for_status()
    return name


@pytest.fixture
def environment(s3: str) -> dict[str, str]:
    """The variables of a process that uses the team's packages and its S3 server."""
    return packages_and_keys(s3)


@pytest.fixture(scope="session")
def fewer(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A registry with 100 runs and 500 artifacts."""
    return registry_of(tmp_path_factory.mktemp("fewer") / "registry", empty_store, FEWER, 5)


@pytest.fixture
def small(tmp_path: Path, empty_store: Path) -> Path:
    """A registry with two runs and two versions."""
    return registry_of(tmp_path / "small", empty_store, 2, 2)
