"""A model is run in a child process first, with a deadline and limits; approvals are remembered."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import psutil
import pytest

from serving.model.onnx_file import ModelError
from serving.model.store import Store
from serving.model.verification import RECORD, UnverifiedError, Verifier
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.processes import ROOT, wait_until
from tests.serving.conftest import Swap
from tests.serving.model.poisons import loop_over, rename_output

Variant = Callable[..., Path]
PATIENT = 100.0  # seconds: longer than any verification of a good model
SOON = 3.0


@pytest.fixture
def endless(variant: Variant) -> Path:
    return variant(loop_over("probabilities"), "endless.onnx")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the verifying processes, in order."""
    ids: list[int] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: object) -> None:
            super().__init__(command, **options)  # type: ignore[call-overload]
            ids.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    return ids


def verify(folder: Path, path: Path, seconds: float = PATIENT) -> list[str]:
    """Verify a file; returns whether a verification began."""
    began: list[str] = []
    Verifier(folder, seconds).verify(path, path.read_bytes(), lambda: began.append("began"))
    return began


def test_endless_model_is_refused_and_a_good_file_is_taken(swap: Swap, endless: Path, tmp_path: Path) -> None:
    settings = Settings(model=swap.served, poll_seconds=0.1, verify_seconds=PATIENT, cache_dir=tmp_path / "cache")
    store = Store(settings, Metrics())
    assert store.refresh()
    before = store.current
    store = Store(settings.model_copy(update={"verify_seconds": SOON}), Metrics())
    store.start()
    try:
        wait_until(lambda: store.current is not None, "the start")
        shutil.copyfile(endless, tmp_path / "next")
        (tmp_path / "next").replace(swap.served)
        wait_until(lambda: (store.problem or "").startswith("verifying"), "the verification being reported")
        assert (store.problem or "").startswith(f"verifying file {swap.served} since 2")
        wait_until(lambda: (store.problem or "").startswith("refused"), "the refusal")
        assert store.problem == f"refused: {swap.served} is not verified within 3 s (SERVING_VERIFY_SECONDS)."
        assert before is not None
        assert store.current is not None
        assert store.current.version == before.version
        swap.put(0)
        wait_until(lambda: store.problem is None, "the good file being taken")
    finally:
        store.stop()


def test_endless_feature_map_is_refused(variant: Variant, tmp_path: Path) -> None:
    path = variant(loop_over("conv2"))
    with pytest.raises(ModelError, match="is not verified within 3 s"):
        verify(tmp_path / "cache", path, SOON)


def test_feature_map_of_another_shape_is_refused(variant: Variant, tmp_path: Path) -> None:
    def flatten(model: onnx.ModelProto) -> None:
        rename_output(model, "conv2", "before")
        model.graph.node.append(onnx.helper.make_node("Flatten", ["before"], ["conv2"]))
        output = next(each for each in model.graph.output if each.name == "conv2")
        output.type.tensor_type.ClearField("shape")

    with pytest.raises(ModelError, match=r"returns conv2 of shape \(1, \d+\), expected \[batch, channels, height"):
        verify(tmp_path / "cache", variant(flatten))


def test_approval_is_remembered_until_a_version_changes(model_file: Path, tmp_path: Path, started: list[int]) -> None:
    folder = tmp_path / "cache"
    assert verify(folder, model_file) == ["began"]
    assert verify(folder, model_file) == []
    record = folder / RECORD
    record.write_text(record.read_text().replace("ONNX Runtime 1", "ONNX Runtime 0"))
    assert verify(folder, model_file) == ["began"]
    record.write_text("[damaged")
    assert verify(folder, model_file) == ["began"]
    assert len(started) == 3


def test_refusal_is_not_remembered(broken: Path, model_file: Path, tmp_path: Path, started: list[int]) -> None:
    folder = tmp_path / "cache"
    verify(folder, model_file)
    for _ in range(2):
        with pytest.raises(ModelError, match="contract version"):
            verify(folder, broken)
    assert verify(folder, model_file) == []
    assert len(started) == 3


def test_model_is_verified_where_nothing_can_be_written(model_file: Path, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the place of a folder")
    for _ in range(2):
        assert verify(tmp_path / "file" / "cache", model_file) == ["began"]
    with pytest.raises(ModelError, match="contract version"):
        verify(tmp_path / "file" / "cache", broken)


@pytest.mark.parametrize(("name", "seconds"), [("model_file", PATIENT), ("endless", SOON)])
def test_one_of_several_workers_verifies(
    request: pytest.FixtureRequest, tmp_path: Path, started: list[int], name: str, seconds: float
) -> None:
    path: Path = request.getfixturevalue(name)

    def one(_: int) -> str:
        try:
            return "approved" if verify(tmp_path / "cache", path, seconds) else "remembered"
        except ModelError as refusal:
            return str(refusal)

    with ThreadPoolExecutor(3) as workers:
        verdicts = set(workers.map(one, range(3)))
    assert len(started) == 1
    if name == "endless":
        assert verdicts == {f"{path} is not verified within 3 s (SERVING_VERIFY_SECONDS)."}
    else:
        assert verdicts <= {"approved", "remembered"}


def test_killed_verification_is_a_refusal(endless: Path, tmp_path: Path, started: list[int]) -> None:
    with ThreadPoolExecutor(1) as worker:
        verifying = worker.submit(verify, tmp_path / "cache", endless)
        wait_until(lambda: len(started) == 1, "the start of the child")
        os.kill(started[0], signal.SIGKILL)
        with pytest.raises(ModelError, match=r"endless.onnx ends its verification by SIGKILL; it may need \d+ MiB"):
            verifying.result()


def test_stop_ends_a_verification(endless: Path, tmp_path: Path, started: list[int]) -> None:
    verifier = Verifier(tmp_path / "cache", PATIENT)
    with ThreadPoolExecutor(1) as worker:
        verifying = worker.submit(verifier.verify, endless, endless.read_bytes(), lambda: None)
        wait_until(lambda: len(started) == 1, "the start of the child")
        verifier.close()
        with pytest.raises(UnverifiedError, match="because the service stops"):
            verifying.result()
    assert not psutil.pid_exists(started[0])


def test_verification_ends_without_its_parent(endless: Path) -> None:
    # As after `kill -9` of the worker: nobody waits for the deadline.
    command = [sys.executable, "-m", "serving.model.verification", str(endless), "1"]
    ended = subprocess.run(command, cwd=ROOT, input=endless.read_bytes(), check=False, capture_output=True)
    assert ended.returncode == -signal.SIGXCPU, ended.stderr
