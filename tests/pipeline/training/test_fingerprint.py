import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.data.dataset import DataSet
from pipeline.recipes import RECIPES
from pipeline.training import fingerprint as provenance

RECIPE, CPU = RECIPES["default"], torch.device("cpu")


def test_fingerprint_stays_where_nothing_changes_and_changes_with_all_that_decides(tenth: DataSet) -> None:
    one = provenance.fingerprint(RECIPE, 1, CPU, tenth)
    assert provenance.fingerprint(RECIPE, 1, CPU, tenth) == one
    others = [
        provenance.fingerprint(replace(RECIPE, weight_decay=0.02), 1, CPU, tenth),
        provenance.fingerprint(RECIPE, 2, CPU, tenth),
        provenance.fingerprint(RECIPE, 1, torch.device("mps"), tenth),
        provenance.fingerprint(RECIPE, 1, CPU, replace(tenth, digest="0" * 64)),
    ]
    assert len({one, *others}) == 5


def test_fingerprint_changes_with_the_code(tenth: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = provenance.fingerprint(RECIPE, 1, CPU, tenth)
    copy = tmp_path / "pipeline"
    shutil.copytree(Path(provenance.__file__).parents[1], copy, ignore=shutil.ignore_patterns("*.gz"))
    monkeypatch.setattr(provenance, "__file__", str(copy / "training" / "fingerprint.py"))
    assert provenance.fingerprint(RECIPE, 1, CPU, tenth) == before
    for file in copy.rglob("*.py"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert provenance.fingerprint(RECIPE, 1, CPU, tenth) == before, "line ends of another system"
    for place in ("report/page.py", "tracking/runs.py"):
        (copy / place).write_text("# changed")
    assert provenance.fingerprint(RECIPE, 1, CPU, tenth) == before
    for place in ("data/dataset.py", "training/loop.py", "networks.py"):
        changed_before = provenance.fingerprint(RECIPE, 1, CPU, tenth)
        with (copy / place).open("a") as opened:
            opened.write("# changed\n")
        assert provenance.fingerprint(RECIPE, 1, CPU, tenth) != changed_before, place


def test_fingerprint_changes_with_the_precision(tenth: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = set()
    for able in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        marks.add(provenance.fingerprint(RECIPE, 1, CPU, tenth))
    assert len(marks) == 2


def test_git_commit_is_known_in_a_checkout_and_unknown_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_commit() == "unknown"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(tmp_path)]
    (tmp_path / "provenance.py").write_text("")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "a commit"], check=True)
    assert re.fullmatch("[0-9a-f]{40}", provenance.git_commit())
    (tmp_path / "provenance.py").write_text("changed")
    assert provenance.git_commit().endswith("-dirty")


def test_git_commit_of_an_image_comes_from_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_COMMIT", "a" * 40)
    assert provenance.git_commit() == "a" * 40


def test_versions_name_what_decides() -> None:
    assert provenance.versions()["torch"].startswith("2.")
    assert set(provenance.versions()) == {"python", *provenance.PACKAGES}
