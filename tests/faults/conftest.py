"""A seed for each day, a seeded subset, and a summary of what was caused and what was lost."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pytest

from serving.model.onnx_file import Model

# Fixtures of the service's tests.
from tests.serving.conftest import (  # noqa: F401
    _registry_is_forgotten,
    empty_database,
    newer,
    registry,
    start_service,
    swap,
    variant,
)

from .server import Server

# In the environment, so that the processes of one try agree at midnight as well.
SEED = os.environ["FAULT_SEED"] = os.environ.get("FAULT_SEED") or f"{datetime.now(UTC):%Y%m%d}"
SIZE = os.environ.get("FAULTS") or "full"
QUICK_SHARE = 1 / 3
FAULT = "fault"  # the property of a test


@dataclass(frozen=True)
class Fault:
    """One line of the summary.

    Attributes:
        name: the fault, for people.
        caused: how often.
        requests: sent while it was caused, or commands run.
        lost: requests without a right answer, or results that are missing.
        which: the lost ones, for people.
    """

    name: str
    caused: int
    requests: int
    lost: int
    which: str

    def __str__(self) -> str:
        which = f", {self.which}" if self.lost else ""
        return f"{self.name}: faults caused: {self.caused}, requests: {self.requests}, lost: {self.lost}{which}"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on FAULT_SEED and the test alone."""
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture(scope="session")
def read(model_file: Path, test_digits: tuple[np.ndarray, np.ndarray]) -> list[int]:
    """The digits that the model reads on the test images."""
    digits: list[int] = Model.load(model_file).predict(test_digits[0]).argmax(1).tolist()
    return digits


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    """A server with an empty store, which MLflow's client asks in this process as well."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    server = Server(folder)
    server.start()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.url)
    yield server
    mlflow.set_tracking_uri(before)
    server.close()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a line to the summary: `count(name, caused, requests, lost, which)`."""

    def add(name: str, caused: int, requests: int, lost: int = 0, which: str = "") -> None:
        # A property of the test reaches the process that prints the summary.
        request.node.user_properties.append((FAULT, astuple(Fault(name, caused, requests, lost, which))))

    return add


def pytest_report_header() -> str:
    return f"faults: FAULT_SEED={SEED} FAULTS={SIZE}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With FAULTS=quick, keep a seeded share of the faults; another seed keeps others."""
    if SIZE not in ("quick", "full"):
        raise pytest.UsageError(f"FAULTS is {SIZE!r}, but must be quick or full")
    ours = [item for item in items if item.get_closest_marker("faults")]
    if SIZE == "full" or not ours:
        return
    kept = random.Random(SEED).sample(ours, max(1, round(QUICK_SHARE * len(ours))))
    left_out = [item for item in ours if item not in kept]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    noted = [noted for report in reports if report.when == "call" for noted in report.user_properties]
    faults = [Fault(*values) for name, values in noted if name == FAULT]
    if faults:
        terminalreporter.section(f"faults caused, with FAULT_SEED={SEED} FAULTS={SIZE}")
        for fault in faults:
            terminalreporter.write_line(str(fault))
        caused, requests, lost = (sum(getattr(one, name) for one in faults) for name in ("caused", "requests", "lost"))
        which = "; ".join(fault.which for fault in faults if fault.lost)
        terminalreporter.write_line(str(Fault("all", caused, requests, lost, which)))
