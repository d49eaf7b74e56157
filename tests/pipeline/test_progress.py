import io
import logging
import re

import pytest
import torch
from rich.console import Console

from pipeline import progress
from pipeline.progress import EpochProgress, RunProgress
from pipeline.training.callback import Epoch

EPOCH = Epoch(1, 10, [], 0.5, 0.4, 0.9, 1e-3, 1000.0, 1.0)
CPU = torch.device("cpu")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(file=io.StringIO(), force_terminal=True, width=150)
    monkeypatch.setattr(progress, "console", console)
    return console


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_single_run_shows_epoch_loss_accuracy_and_rate(terminal: Console) -> None:
    with EpochProgress("default", 2, 100, CPU) as epochs:
        epochs.step(100, torch.tensor(0.25))
        epochs.epoch(EPOCH)
        epochs.step(50, torch.tensor(0.125))
    assert "default, epoch 2/2" in shown(terminal)
    assert re.search(r"loss 0\.125  validation 90\.00%  [\d,]+ images/s", shown(terminal))
    assert "75%" in shown(terminal)


def test_loss_of_a_batch_is_not_read_from_a_gpu(terminal: Console) -> None:
    with EpochProgress("default", 2, 100, torch.device("cuda")) as epochs:
        epochs.step(100, torch.tensor(0.25, device="meta"))  # a meta tensor raises when it is read
        epochs.epoch(EPOCH)
        epochs.step(50, torch.tensor(0.25, device="meta"))
    assert "loss 0.500" in shown(terminal)


def test_comparison_shows_all_runs_and_the_current_run_in_one_display(terminal: Console) -> None:
    with RunProgress(24, finished=2) as runs:
        runs.begin("default, seed 3")
        with EpochProgress("default", 2, 100, CPU, runs) as epochs:
            epochs.step(100, torch.tensor(0.25))
            epochs.epoch(EPOCH)
            overall, current = runs.tasks
            assert overall.description == "run 3 of 24: default, seed 3"
            assert (overall.completed, overall.total) == (2.5, 24)
            assert (current.completed, current.total) == (100, 200)
            runs.refresh()
        assert runs.tasks == [overall]
        with EpochProgress("default", 2, 100, CPU, runs) as epochs:
            epochs.resume([EPOCH], 0)
        assert overall.completed == 3
    assert "run 3 of 24: default, seed 3" in shown(terminal)
    assert "default, epoch 1/2" in shown(terminal)


def test_resumed_run_starts_at_its_checkpoint(terminal: Console, caplog: pytest.LogCaptureFixture) -> None:
    with RunProgress(1, finished=0) as runs, EpochProgress("default", 4, 100, CPU, runs) as epochs:
        with caplog.at_level(logging.INFO, logger="pipeline"):
            epochs.resume([EPOCH], 40)
        current = runs.tasks[-1]
        assert (current.completed, current.speed) == (140, None)  # the remaining time ignores earlier epochs
        epochs.step(20, torch.tensor(0.25))
        assert (current.completed, current.description) == (160, "default, epoch 2/4")
    assert caplog.messages == ["default resumes from its checkpoint after 1 of 4 epochs."]


def test_log_has_a_line_per_run_and_per_epoch_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    console = Console(file=io.StringIO())
    monkeypatch.setattr(progress, "console", console)
    with caplog.at_level(logging.INFO, logger="pipeline"), RunProgress(24, finished=2) as runs:
        runs.begin("default, seed 3")
        with EpochProgress("default", 2, 100, CPU, runs) as epochs:
            epochs.step(100, torch.tensor(0.25))
            epochs.epoch(EPOCH)
    assert caplog.messages == [
        "run 3 of 24: default, seed 3",
        "default, epoch 1/2: loss 0.5000, validation accuracy 90.00 %, 1,000 images/s, 1.0 s",
    ]
    assert not shown(console)
