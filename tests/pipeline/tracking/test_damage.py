"""Files of versions that are missing or damaged, and stores that were moved."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from pipeline.__main__ import main
from pipeline.recipes import RECIPES
from pipeline.tracking import registry
from tests.pipeline.conftest import Done

pytestmark = pytest.mark.slow

GATE = ["--subset", "tenth", "--minimum-accuracy", "0.5", "--significance", "0.000001"]
TRAIN = ["train", "--recipe", "dense", *GATE]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A state folder with two versions: seed 1 is previous, seed 2 is champion."""
    state = tmp_path_factory.mktemp("original") / "var"
    state.mkdir()
    shutil.copy(empty_store, state / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "dense", replace(RECIPES["dense"], epochs=1, batch_size=64))
        for seed in ("1", "2"):
            patch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it in this process
            assert main([*TRAIN, "--seed", seed, "--state-dir", str(state)]) == 0
        yield state


@pytest.fixture
def copy(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path / "var"))
    return shutil.copytree(original, tmp_path / "var")


def file_of(state: Path, version: int) -> Path:
    client = mlflow.MlflowClient(f"sqlite:///{state}/mlflow.db")
    model = (client.get_model_version("digits", str(version)).source or "").removeprefix("models:/")
    return state / "artifacts" / "models" / model / "artifacts" / "model.onnx"


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    match how:
        case "missing":
            file.unlink()
        case "truncated":
            file.write_bytes(content[:-4000])
        case "changed":  # weights: the file still keeps the contract
            middle = len(content) // 2
            file.write_bytes(content[:middle] + bytes(4000) + content[middle + 4000 :])


def numbers() -> tuple[int | None, int | None]:
    champion, previous = registry.by_alias("champion"), registry.by_alias("previous")
    return champion.number if champion else None, previous.number if previous else None


@pytest.mark.parametrize(
    ("how", "told"),
    [("missing", "is missing"), ("truncated", "is damaged (its SHA-256"), ("changed", "is damaged (its SHA-256")],
)
def test_damaged_champion_is_neither_exported_nor_called_good(
    copy: Path, command: Callable[..., Done], how: str, told: str
) -> None:
    damage(file_of(copy, 2), how)
    exported = command("export", "--to", str(copy.parent / "model.onnx"))
    assert exported.returncode == 1
    assert exported.log[-1].startswith(f"The file of version 2 {told}")
    assert not (copy.parent / "model.onnx").exists()
    known = command(*TRAIN, "--seed", "1")
    assert known.returncode == 1
    assert known.log[-1].startswith(f"The champion cannot be served, because the file of version 2 {told}")
    back = command("rollback")
    assert (back.returncode, numbers()) == (0, (1, 2))
    undone = command("rollback")
    assert undone.returncode == 1
    assert undone.log[-1].startswith(f"The file of version 2 {told}")
    assert numbers() == (1, 2)


def test_version_without_a_checksum_is_checked_by_the_contract(copy: Path, command: Callable[..., Done]) -> None:
    mlflow.MlflowClient(f"sqlite:///{copy}/mlflow.db").delete_model_version_tag("digits", "2", "sha256")
    damage(file_of(copy, 2), "truncated")
    done = command("export", "--to", str(copy.parent / "model.onnx"))
    assert done.returncode == 1
    assert done.log[-1].startswith("The file of version 2 is damaged (it breaks the contract)")


def test_damaged_champion_wins_and_loses_against_none(copy: Path, command: Callable[..., Done]) -> None:
    damage(file_of(copy, 2), "changed")
    other = command(*TRAIN, "--seed", "3")
    assert other.returncode == 1
    assert other.log[-1].startswith("Version 3 cannot be compared with the champion, because the file of version 2 is ")
    assert other.log[-1].endswith("go back by `rollback`, or replace it by `promote --version 3`.")
    assert numbers() == (2, 1)
    assert "verdict" not in registry.get(3).tags
    named = command("promote", "--version", "3", *GATE)
    assert (named.returncode, numbers()) == (0, (3, 1))  # version 1 remains the one to go back to
    assert "could not be compared" in registry.get(3).tags["verdict"]


def test_damaged_result_is_trained_again_and_takes_its_place(copy: Path, command: Callable[..., Done]) -> None:
    damage(file_of(copy, 2), "missing")
    again = command(*TRAIN, "--seed", "2")
    assert again.returncode == 0, again.log
    assert "Version 2 is not reused: the file of version 2 is missing." in again.log
    assert numbers() == (3, 1)
    assert again.log[-1].startswith("Champion: version 3")


def test_store_may_be_copied_or_moved(original: Path, copy: Path, command: Callable[..., Done]) -> None:
    first = command("export", "--to", str(copy.parent / "model.onnx"))
    assert first.returncode == 0
    assert first.log[0] == f"The runs have moved from {original} to {copy}."
    with closing(sqlite3.connect(copy / "mlflow.db")) as database:
        assert (original / "artifacts").as_uri() not in "".join(database.iterdump())
    moved = copy.rename(copy.with_name("moved"))
    again = command("export", "--to", str(moved / "model.onnx"), PIPELINE_STATE_DIR=str(moved))
    assert again.log[0] == f"The runs have moved from {copy} to {moved}."
    assert (moved / "model.onnx").read_bytes() == (copy.parent / "model.onnx").read_bytes()


def test_store_that_was_moved_without_its_artifacts_is_told(copy: Path, command: Callable[..., Done]) -> None:
    assert command("status").returncode == 0
    moved = copy.with_name("moved")
    moved.mkdir()
    (copy / "mlflow.db").rename(moved / "mlflow.db")
    kept = command("status", PIPELINE_STATE_DIR=str(moved))  # the artifacts can still be read
    assert kept.returncode == 0
    shutil.rmtree(copy)
    lost = command("status", PIPELINE_STATE_DIR=str(moved))
    assert lost.returncode == 1
    assert lost.log[-1] == (
        f"The artifacts of the runs in {moved}/mlflow.db are neither in {copy}/artifacts nor in {moved}/artifacts: "
        f"move them to {moved}/artifacts, or choose another --state-dir."
    )
