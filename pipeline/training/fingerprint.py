"""Provenance of a result: code, versions, device, and the fingerprint that identifies equal runs."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.data.dataset import DataSet
from pipeline.recipes import Recipe
from pipeline.training.devices import choose_precision

# The code that decides a model's weights and file. A change elsewhere, in a picture or a message, retrains nothing.
DECISIVE = ("data/*.py", "training/*.py", "networks.py", "evaluation.py", "export.py")
PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "mlflow", "numpy")


def code_digest() -> str:
    """SHA-256 over the modules that decide a model; LF and CRLF line ends give the same digest."""
    package = Path(__file__).parents[1]
    files = [file for pattern in DECISIVE for file in sorted(package.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes().replace(b"\r\n", b"\n") for file in files)).hexdigest()


def git_commit() -> str:
    """The commit of the working tree, with `-dirty` if files differ from it; `unknown` outside a checkout.

    An image holds no checkout: its build writes the commit into the variable GIT_COMMIT.
    """
    if os.environ.get("GIT_COMMIT"):
        return os.environ["GIT_COMMIT"]
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def fingerprint(recipe: Recipe, seed: int, device: torch.device, dataset: DataSet) -> str:
    """SHA-256 over everything that decides a model: recipe, seed, device type, precision, data, code and versions.

    Two runs with the same fingerprint on the same machine's CPU end with the same weights.
    """
    decides = {
        "recipe": {field: value for field, value in asdict(recipe).items() if field not in ("name", "about", "adapts")},
        "seed": seed,
        "device": [device.type, str(choose_precision(device, recipe.mixed_precision))],
        "data": dataset.digest,
        "code": code_digest(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
