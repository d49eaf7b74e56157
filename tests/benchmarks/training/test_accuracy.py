"""The evaluation of recipes on held-out digits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.training import accuracy
from pipeline.data.dataset import DataSet, Samples
from pipeline.training.loop import Trained, train
from pipeline.training.run import Run


def test_held_out_digits_are_evaluated_and_not_learned_from(
    tenth: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text("epochs = 1\nbatch_size = 100\n")
    learned_from: list[Samples] = []

    def recorded(run: Run) -> Trained:
        learned_from.append(run.dataset.train)
        return train(run)

    monkeypatch.setattr(accuracy, "HELD_OUT", 1500)
    monkeypatch.setattr(accuracy, "train", recorded)
    unread = replace(tenth, read_test=lambda: pytest.fail("the test digits were read"))
    accuracy.hold_out([str(recipe)], 2, unread, torch.device("cpu"))
    assert len(learned_from) == 2
    for digits in learned_from:
        assert torch.equal(digits.images, tenth.train.images[:4000])
        assert torch.equal(digits.labels, tenth.train.labels[:4000])
    heading, _, row = capsys.readouterr().out.splitlines()
    assert "accuracy on 2,000 held-out digits" in heading
    _, name, epochs, right, _, _ = row.split("|")
    assert (name.strip(), epochs.strip()) == ("`short`", "1")
    assert 80 < float(right.split("±")[0]) < 99
