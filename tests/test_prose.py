"""The language check of `make lint` finds what it should, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROKEN = {
    "headless clause": "The file goes to whoever asks for it.",
    "headless sentence": "What crosses is one file.",
    "where": "Training starts. Where there is no GPU, it uses the CPU.",
    "anew": "Train the model anew.",
    "beside": "The file lies beside the other.",
    "any more": "The gate is not needed any more.",
    "word order": "The limit covers also files.",
    "also where": "It works also where the network fails.",
    "by why": "Refusals are counted by why they happened.",
    "code does not speak": "The log says why.",
    "is asked": "The server is asked for a digit.",
    "goes on": "The run goes on.",
    "in vain": "The client waited in vain.",
    "to be had": "The data is not to be had.",
    "put right": "Users put right the file.",
    "archaism": "The wished device is unavailable.",
    "redundancy": "The weights cancel out.",
    "width": "The line is too wide. " * 5,
}


def check(file: Path, text: str) -> list[str]:
    file.write_text(text)
    command = [sys.executable, str(ROOT / ".ci" / "prose.py"), str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == bool(done.stdout), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rule_is_named_with_file_and_line(rule: str, tmp_path: Path) -> None:
    found = check(tmp_path / "page.md", f"# Title\n\n{BROKEN[rule]}\n")
    assert len(found) == 1, found
    assert found[0].startswith(f"{tmp_path / 'page.md'}:3: {rule}")


@pytest.mark.parametrize("place", ['"""{}"""', "x = 1  # {}", 'log.info("{}")', 'x = f"{{x}} {}"'])
def test_comments_and_strings_of_python_are_checked(place: str, tmp_path: Path) -> None:
    found = check(tmp_path / "module.py", f"x = 1\n{place.format('Train the model anew.')}\n")
    assert [line.rpartition(": ")[2] for line in found] == ["anew"]
    assert found[0].startswith(f"{tmp_path / 'module.py'}:2: ")


def test_sentence_is_found_across_a_line_break(tmp_path: Path) -> None:
    found = check(tmp_path / "module.py", "# The gate is not needed\n# any more.\n")
    assert found == [f"{tmp_path / 'module.py'}:1: any more: no longer: not needed any more"]


def test_code_is_not_prose(tmp_path: Path) -> None:
    page = "Run `train --anew`:\n\n```\nanew beside\n```\n\nSee [the page](anew.md).\n"
    assert check(tmp_path / "page.md", page) == []
    assert check(tmp_path / "module.py", "beside = anew(wished)\n") == []


def test_plain_sentences_pass(tmp_path: Path) -> None:
    page = "The run resumes. The file is in MLflow, where the report is too. There are no more requests than before.\n"
    page += "Is there a faster way? Who reads the file? Training also covers the tenth.\n"
    assert check(tmp_path / "page.md", page.replace(". ", ".\n")) == []
