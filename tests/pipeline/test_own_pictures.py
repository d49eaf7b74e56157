"""The commands on a folder of pictures, of which versions of several sizes and preparations exist."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Done
from tests.pipeline.data.pictures.folders import make

pytestmark = pytest.mark.slow


def test_versions_of_other_sizes_and_preparations_are_promoted_as_the_hint_says(
    tmp_path: Path, command: Callable[..., Done]
) -> None:
    folder = make(tmp_path / "symbols", dict.fromkeys(("club", "heart", "star"), 40))
    here = ("--dataset", f"folder:{folder}", "--state-dir", str(tmp_path / "var"))
    train = ("train", "--recipe", "dense", "--minimum-accuracy", "0")
    first = command(*train, *here)
    assert first.returncode == 0
    assert "Champion: version 1 of symbols" in first.log[-1]
    for number, (*changed, told) in enumerate(
        (
            ("--size", "20", "its pictures have 20x20 pixels in grey, and the champion's 28x28 pixels in grey"),
            ("--preparation", "stroke", "the preparation of its pictures is stroke, and the champion's is fit edge"),
        ),
        start=2,
    ):
        other = command(*train, *here, *changed)
        assert other.returncode == 0
        (line,) = (line for line in other.log if f"Version {number} is not promoted" in line)
        assert f"it cannot be compared with the champion: {told}" in line
        hint = shlex.split(line.split("`")[1])
        assert hint == ["promote", "--dataset", "folder:…", "--version", str(number)]
        # Without the size and the preparation: the version has them.
        promoted = command(*hint[:1], *here, *hint[3:], "--minimum-accuracy", "0.1")
        assert promoted.returncode == 0, promoted.log
        assert any(f"Version {number} is champion" in line for line in promoted.log)
        assert command("rollback", *here).returncode == 0

    # The same pictures under another name are another data set, with a model of its own.
    copied = folder.rename(tmp_path / "shapes")
    again = command(*train, "--dataset", f"folder:{copied}", "--state-dir", str(tmp_path / "var"))
    assert "Champion: version 1 of shapes" in again.log[-1]
    listed = command("status", "--state-dir", str(tmp_path / "var"))
    assert "There are versions of shapes, symbols: choose one by --dataset." in " ".join(listed.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--flip"], "flip does not change dense: write `flip = true` under [augmentation] in a recipe"),
        (
            ["--dataset", "mnist", "--subset", "tenth", "--size", "20", "--flip"],
            "These settings are for folders of pictures and change nothing here: flip, size.",
        ),
    ],
)
def test_setting_without_effect_is_a_warning(
    arguments: list[str], told: str, tmp_path: Path, command: Callable[..., Done]
) -> None:
    folder = make(tmp_path / "symbols", dict.fromkeys(("club", "heart"), 20))
    given = ("--dataset", f"folder:{folder}", "--state-dir", str(tmp_path / "var"), "--recipe", "dense")
    done = command("train", *given, *arguments)
    assert any(told in line for line in done.log), done.log
