"""Real containers, built and started under project names and ports of their own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from .compose import BUILD_SECONDS, Stack


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """Return the folder in MNIST_DIR; stack tests require it."""
    if not os.environ.get("MNIST_DIR"):
        pytest.fail("set MNIST_DIR to a folder that holds MNIST/raw: the stack is tested on the full MNIST")
    return Path(os.environ["MNIST_DIR"]).resolve()


@pytest.fixture(scope="session")
def test_digits(mnist_dir: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images [10000, 784] and labels [10000], read without the pipeline's code."""
    raw = mnist_dir / "MNIST" / "raw"
    images = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return images.reshape(10_000, 784), labels


@pytest.fixture(scope="session")
def stack(mnist_dir: Path) -> Iterator[Stack]:
    """Start the whole flow, with a champion trained on the full MNIST."""
    flow = Stack(MNIST_DIR=str(mnist_dir))
    try:
        flow.compose("build", timeout=BUILD_SECONDS)
        flow.up()
        yield flow
    finally:
        flow.remove()


@pytest.fixture
def another_stack() -> Iterator[Callable[..., Stack]]:
    """Return a function that creates further, empty projects; their images reuse the layers already built."""
    made: list[Stack] = []

    def make(**settings: str) -> Stack:
        made.append(Stack(**settings))
        made[-1].compose("build", timeout=BUILD_SECONDS)
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.remove()
