"""No library reports its use: neither does ONNX Runtime leave its files, nor MLflow start its client."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# MLflow is silent in pytest and in continuous integration anyway.
HIDDEN = ("PYTEST", "CI", "GITHUB_ACTIONS", "MLFLOW_", "ORT_", "DO_NOT_TRACK", "XDG_")


def run(statements: str, home: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    environment["HOME"] = str(home)
    command = [sys.executable, "-c", statements]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("module", ["serving.model.onnx_file", "pipeline.export"])
def test_onnx_runtime_leaves_no_files_in_the_home_folder(module: str, tmp_path: Path) -> None:
    run(f"import {module}, onnxruntime", tmp_path)
    assert [str(file) for file in tmp_path.rglob("*") if "onnxruntime" in str(file)] == []


@pytest.mark.parametrize("module", ["serving.model.sources", "pipeline.tracking.connection"])
def test_mlflow_is_told_not_to_report(module: str, tmp_path: Path) -> None:
    disabled = run(
        f"import {module}; from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())",
        tmp_path,
    )
    assert disabled.strip() == "True"
