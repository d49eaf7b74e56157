"""The comparison of servers: every server recognises the digits that the model recognises."""

import os
from pathlib import Path

import pytest

from benchmarks.harness.processes import BenchmarkError
from benchmarks.serving import __main__ as serving
from benchmarks.serving.contenders import BARE, BATCHED, BENTOML, CONTENDERS, FASTAPI, OURS, Body, RunningServer


@pytest.fixture(scope="module")
def served_file(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.prepare(model_file, tmp_path_factory.mktemp("served"))[1]


@pytest.mark.parametrize("name", [OURS, BARE, BATCHED, FASTAPI, BENTOML])
def test_each_server_recognises_same_digits(name: str, served_file: Path, tmp_path: Path) -> None:
    server = RunningServer(CONTENDERS[name], served_file, min(os.sched_getaffinity(0)), tmp_path)
    with server.process as process:
        server.wait_until_ready()
        serving.check(server, served_file)
        listening = [c.laddr for p in process.family() for c in p.net_connections() if c.status == "LISTEN"]
        assert {address.ip for address in listening} == {"127.0.0.1"}
    assert not process.family()


def test_server_with_other_digits_is_reported_by_name(served_file: Path) -> None:
    class Wrong:
        contender = CONTENDERS[OURS]

        def digits(self, body: Body) -> list[int]:
            return [0] * body.images

    with pytest.raises(BenchmarkError, match=r"ours answers \[0\] instead of the model's \[\d\]"):
        serving.check(Wrong(), served_file)  # type: ignore[arg-type]


def test_error_without_second_core_names_usable_cores() -> None:
    with pytest.raises(BenchmarkError, match="Two cores are needed"):
        serving.choose_cores([0, 0])
