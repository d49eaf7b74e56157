import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.names import NAMES, DataError, flag_of, folder_of, joined, model_of, name_of


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("mnist", "mnist"),
        ("emnist-letters", "emnist-letters"),
        ("folder:/data/My Symbols", "my-symbols"),
        ("folder:/data/Äpfel & Birnen/", "pfel-birnen"),
        ("folder:/data/mnist", "mnist-folder"),
        ("folder:/data/digits", "digits-folder"),
    ],
)
def test_each_choice_has_a_name_that_is_safe_in_paths_and_no_other_data_set_has(choice: str, name: str) -> None:
    assert name_of(choice) == name


@pytest.mark.parametrize("choice", ["mnits", "", "folder:/", "folder:/data/日本"])
def test_choice_without_a_name_is_refused(choice: str) -> None:
    with pytest.raises(DataError, match=r"there are mnist, .* and folder:PATH|rename the folder"):
        name_of(choice)


def test_folder_without_its_prefix_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"(did you mean folder:{tmp_path}?)")):
        name_of(str(tmp_path))


def test_empty_path_names_no_folder() -> None:
    with pytest.raises(DataError, match=r"^it names no folder: write folder:PATH$"):
        name_of("folder:")


def test_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert folder_of("folder:~/symbols") == Path("/home/ada/symbols")


def test_commands_for_other_models_than_digits_need_the_flag() -> None:
    expected = ["", " --dataset fashion-mnist", " --dataset folder:…"]
    assert [flag_of(model) for model in ("digits", "fashion-mnist", "symbols")] == expected


def test_model_of_mnist_is_called_digits() -> None:
    assert [model_of(name) for name in NAMES[:2]] == ["digits", "fashion-mnist"]
    assert folder_of("folder:a b/c") == Path("a b/c")
    assert folder_of("mnist") is None


def test_makefile_asks_for_the_name_of_the_model() -> None:
    def ask(choice: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.data.names", choice]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert ask("folder:some pictures").stdout == "some-pictures\n"
    refused = ask("fashion")
    assert refused.returncode == 1
    assert refused.stderr.startswith("fashion: there is no data set of that name (did you mean fashion-mnist?); ")


def test_names_are_known_before_torch_is_imported() -> None:
    code = "import sys, pipeline.data.names; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_long_lists_are_shortened_and_control_characters_are_quoted() -> None:
    assert joined([str(number) for number in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert joined(["a\nb"]) == r"'a\nb'"
