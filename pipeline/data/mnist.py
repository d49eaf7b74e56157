"""MNIST alone: a short call for the lessons, the benchmarks and the tests."""

from pathlib import Path

from pipeline.data import named
from pipeline.data.dataset import DataSet


def load(choice: named.Choice, mnist_dir: Path | None, download_to: Path) -> DataSet:
    """Find, check and split MNIST (see `named.load`)."""
    return named.load("mnist", choice, None, mnist_dir, download_to)
