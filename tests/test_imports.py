"""The import rules in pyproject.toml fail, with module and line, when a module breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Contract, module and the import that breaks it.
BROKEN = [
    ("pipeline", "pipeline/data/dataset.py", "import pipeline.training.loop"),
    ("pipeline", "pipeline/networks.py", "import pipeline.tracking.runs"),
    ("pipeline", "pipeline/flow.py", "import pipeline.commands"),
    ("serving", "serving/decoding/arrays.py", "import serving.web.routes"),
    ("serving", "serving/errors.py", "import serving.model.store"),
    ("preparation", "preparation/pixels.py", "import preparation.fit"),
    ("apart-preparation", "preparation/form.py", "import pipeline.data"),
    ("apart-preparation", "preparation/form.py", "import serving.contract"),
    ("apart-preparation", "preparation/stroke.py", "import torch"),
    ("apart-serving", "serving/settings.py", "import pipeline"),
    ("apart-serving", "serving/settings.py", "import torch"),
    ("apart-pipeline", "pipeline/export.py", "import serving.contract"),
    ("apart-pipeline", "pipeline/export.py", "import bentoml"),
    ("mlflow", "pipeline/recipes.py", "import mlflow"),
    ("mlflow", "serving/web/routes.py", "from mlflow.tracking import MlflowClient"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the packages with the rules."""
    for package in ("pipeline", "preparation", "serving"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path, contract: str) -> subprocess.CompletedProcess[str]:
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--no-logo", "--no-cache", "--contract", contract]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(("contract", "module", "statement"), BROKEN)
def test_forbidden_import_is_named_with_its_line(contract: str, module: str, statement: str, copy: Path) -> None:
    text = (copy / module).read_text() + f"\n{statement}\n"
    (copy / module).write_text(text)
    done = lint(copy, contract)
    assert done.returncode == 1, done.stdout
    dotted = module.removesuffix(".py").replace("/", ".")
    assert any(dotted in line and f"l.{text.count(chr(10))}" in line for line in done.stdout.splitlines()), done.stdout


@pytest.mark.parametrize("package", ["pipeline", "preparation", "serving"])
def test_new_module_needs_a_layer(package: str, copy: Path) -> None:
    (copy / package / "unplaced.py").write_text("")
    done = lint(copy, package)
    assert done.returncode == 1
    assert "unplaced" in done.stdout
