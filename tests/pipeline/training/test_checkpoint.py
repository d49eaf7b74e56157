import logging
import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.data.dataset import DataSet
from pipeline.recipes import Augmentation, ConvArchitecture
from pipeline.training.callback import Callback, Epoch
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.loop import train
from pipeline.training.run import Run
from tests.pipeline.training.test_loop import short
from tests.trained import QUICK

pytestmark = pytest.mark.slow

EVERYTHING = replace(  # every kind of state: schedule, average, three random number generators
    QUICK,
    network=ConvArchitecture(dropout=0.3),
    averaging=0.9,
    weight_decay=0.01,
    augmentation=Augmentation(10, 0.1, 8, 2),
)
MARK = "f" * 64


class After(Callback):
    """Acts after a number of steps, and keeps what training reports."""

    def __init__(self, steps: int, act: Callable[[], None]) -> None:
        self._left, self._act = steps, act
        self.resumed: tuple[int, int] | None = None
        self.epochs: list[Epoch] = []

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        self.resumed, self.epochs = (len(epochs), images), list(epochs)

    def step(self, images: int, loss: Tensor) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)


def be_killed() -> None:
    raise MemoryError  # like kill -9: nothing is saved


def be_stopped() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def run(tenth: DataSet) -> Run:
    return short(EVERYTHING, 3, tenth, 640)


@pytest.mark.parametrize(
    ("steps", "act", "error", "resumed"),
    [
        (15, be_killed, MemoryError, (1, 0)),  # ten steps are an epoch
        (15, be_stopped, KeyboardInterrupt, (1, 5 * 64)),
        (20, be_stopped, KeyboardInterrupt, (1, 10 * 64)),
        (3, be_stopped, KeyboardInterrupt, (0, 3 * 64)),
    ],
)
def test_interrupted_training_ends_with_the_same_weights(
    steps: int,
    act: Callable[[], None],
    error: type[BaseException],
    resumed: tuple[int, int],
    run: Run,
    tmp_path: Path,
) -> None:
    whole = train(run)
    expected = whole.network.state_dict()
    file = tmp_path / "some" / "run.pt"
    with pytest.raises(error):
        train(run, [After(steps, act)], Checkpoint(file, MARK))
    torch.manual_seed(99)  # whatever happens between the two processes
    callback = After(0, be_killed)
    again = train(run, [callback], Checkpoint(file, MARK))
    weights = again.network.state_dict()
    assert callback.resumed == resumed
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert list(again.growth) == list(whole.growth) == [0, 1, 2, 3]
    assert all(torch.equal(again.growth[epoch], whole.growth[epoch]) for epoch in whole.growth)
    assert callback.epochs == again.epochs
    strip = [replace(epoch, seconds=0, images_per_second=0) for epoch in whole.epochs]
    assert [replace(epoch, seconds=0, images_per_second=0) for epoch in again.epochs] == strip


@pytest.mark.parametrize("epoch", [1, 3])
def test_signal_during_the_evaluation_of_an_epoch_is_not_lost(run: Run, tmp_path: Path, epoch: int) -> None:
    class Stopped(After):
        def epoch(self, epoch_: Epoch) -> None:
            super().epoch(epoch_)
            if epoch_.number == epoch:
                be_stopped()

    expected = train(run).network.state_dict()
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(run, [Stopped(0, be_killed)], Checkpoint(file, MARK))
    again = After(0, be_killed)
    weights = train(run, [again], Checkpoint(file, MARK)).network.state_dict()
    assert again.resumed == (epoch, 0)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_finished_training_is_not_repeated(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    expected = train(run, [], Checkpoint(file, MARK)).network.state_dict()
    weights = train(run, [After(1, be_killed)], Checkpoint(file, MARK)).network.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_damaged_checkpoint_is_refused_by_name(keep: int, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    Checkpoint(file, MARK).save({"steps": torch.zeros(1000)})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=f"The checkpoint {file} is damaged: delete it, or start over with --fresh"
    ):
        Checkpoint(file, MARK)


def test_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    Checkpoint(file, MARK).save({})
    with pytest.raises(CheckpointError, match=f"{file} belongs to another recipe"):
        Checkpoint(file, "e" * 64)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "run.pt"
    checkpoint = Checkpoint(file, MARK)
    checkpoint.run_id = "run"
    checkpoint.save({"steps": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # limits the size of files, like a full disk
    try:
        with caplog.at_level(logging.WARNING, logger="pipeline"):
            checkpoint.save({"steps": 2, "weights": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "could not be saved (" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    kept = Checkpoint(file, MARK)
    assert (kept.state, kept.run_id) == ({"steps": 1}, "run")


def test_checkpoint_is_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt", MARK)
    checkpoint.remove()
    checkpoint.save({})
    checkpoint.remove()
    assert not list(tmp_path.iterdir())
