import io
import logging

import pytest
import torch
from rich.console import Console

from pipeline import progress
from pipeline.progress import EpochProgress, RunProgress
from pipeline.training.loop import Epoch

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


def test_bar_of_a_run_stands_alone(terminal: Console) -> None:
    with EpochProgress("default", 2, 100, CPU) as epochs:
        epochs.step(50, torch.tensor(0.25))
    assert "default, epoch 1/2" in shown(terminal)
    assert "loss 0.250" in shown(terminal)


def test_bars_of_all_runs_and_of_the_one_under_way_share_a_display(terminal: Console) -> None:
    with RunProgress(24, finished=2) as runs:
        runs.begin("default, seed 3")
        with EpochProgress("default", 2, 100, CPU, runs) as epochs:
            epochs.step(100, torch.tensor(0.25))
            epochs.epoch(EPOCH)
            over_all, of_run = runs.bars.tasks
            assert over_all.description == "run 3 of 24: default, seed 3"
            assert (over_all.completed, over_all.total) == (2.5, 24)
            assert (of_run.completed, of_run.total) == (100, 200)
            runs.bars.refresh()
        assert runs.bars.tasks == [over_all]
        with EpochProgress("default", 2, 100, CPU, runs) as epochs:
            epochs.resume([EPOCH], 0)
        assert over_all.completed == 3
    assert "run 3 of 24: default, seed 3" in shown(terminal)
    assert "default, epoch 1/2" in shown(terminal)


def test_runs_are_lines_in_the_log_elsewhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO())
    monkeypatch.setattr(progress, "console", console)
    with caplog.at_level(logging.INFO, logger="pipeline"), RunProgress(24, finished=2) as runs:
        runs.begin("default, seed 3")
    assert caplog.messages == ["run 3 of 24: default, seed 3"]
    assert not shown(console)
