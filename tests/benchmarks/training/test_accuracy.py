from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.training import accuracy
from pipeline.data.dataset import DataSet


def test_held_out_digits_are_judged_and_not_learned_from(
    tenth: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text("epochs = 1\nbatch_size = 100\n")
    learned_from = []
    real = accuracy.train
    monkeypatch.setattr(accuracy, "HELD_OUT", 1500)
    monkeypatch.setattr(accuracy, "train", lambda *given: learned_from.append(given[2]) or real(*given))
    without_test = replace(tenth, read_test=lambda: pytest.fail("the test digits were read"))
    accuracy.hold_out([str(recipe)], 2, without_test, torch.device("cpu"))
    for digits in learned_from:
        assert torch.equal(digits.images, tenth.train.images[:4000])
        assert torch.equal(digits.labels, tenth.train.labels[:4000])
    heading, _, row = capsys.readouterr().out.splitlines()
    assert "of 2,000 held-out digits right" in heading
    _, name, epochs, right, _, _ = row.split("|")
    assert (name.strip(), epochs.strip()) == ("`short`", "1")
    assert 80 < float(right.split("±")[0]) < 99
