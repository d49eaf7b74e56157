"""The log of real commands as JSON: every line of the standard error."""

import io
import json
import logging
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.logs import JSONLines
from tests.processes import ROOT

pytestmark = pytest.mark.slow

RECIPE = 'epochs = 1\nabout = "One epoch."\nnetwork = { name = "DenseNet" }\n'


def run(*command: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command; its exit code, and each line of its standard error read as JSON."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_of_a_training_is_json(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    command = ["-m", "pipeline", "train", "--subset", "tenth", "--recipe", str(tmp_path / "mine.toml")]
    code, log = run(*command, "--state-dir", str(tmp_path / "var"), PIPELINE_LOG_FORMAT="json")
    assert code == 1
    for line in log:
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None, line
        assert line.keys() == {"time", "level", "logger", "message"}
        assert "\n" not in line["message"]
    messages = [line["message"] for line in log if line["level"] == "INFO"]
    assert any(message.startswith("mine, epoch 1/1: loss ") for message in messages)
    assert (log[-1]["level"], log[-1]["logger"]) == ("ERROR", "pipeline")
    assert "There is no champion to serve" in log[-1]["message"]


def test_wrong_setting_is_json() -> None:
    code, (line,) = run("-m", "pipeline", "status", "--seed", "1", PIPELINE_LOG_FORMAT="json")
    assert code == 2
    assert "unrecognized arguments: --seed 1; see --help." in line["message"]


def test_flag_is_enough(tmp_path: Path) -> None:
    code, log = run("-m", "pipeline", "status", "--log-format", "json", "--state-dir", str(tmp_path))
    assert code == 0
    assert log


def test_warnings_and_uncaught_exceptions_are_json() -> None:
    code = "import warnings; from pipeline.progress import set_up_logging; set_up_logging('json');"
    ended, (warning, error) = run("-c", f"{code} warnings.warn('a warning', stacklevel=1); 1 / 0")
    assert ended == 1
    assert (warning["level"], warning["logger"]) == ("WARNING", "py.warnings")
    assert error["exception"].startswith("Traceback (most recent call last):\n")
    assert error["exception"].endswith("ZeroDivisionError: division by zero")


def test_no_bars_between_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True))
    assert not progress.Bars().disable
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    assert progress.Bars().disable
