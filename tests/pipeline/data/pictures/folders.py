"""Folders of rendered symbols for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.preparation.pictures import symbol

EDGE: dict[str, Any] = {"name": "fit", "background": "edge"}
STROKE: dict[str, Any] = {"name": "stroke"}
Colours = tuple[tuple[int, int, int], tuple[int, int, int]]  # of ink and paper
GREY = ((20, 20, 20), (230, 230, 230))
COLOUR = ((170, 40, 40), (190, 220, 190))
SYMBOLS = {"club": "\u2663", "heart": "\u2665", "star": "\u2605"}


def draw(file: Path, text: str, number: int, colours: Colours = GREY) -> Path:
    """Save one picture of a symbol; each number has another place and size."""
    random = np.random.default_rng(number)
    width, height = (int(side) for side in random.integers(30, 90, 2))
    x, y = random.uniform(0.4, 0.6, 2)
    file.parent.mkdir(parents=True, exist_ok=True)
    symbol(text, (width, height), *colours, place=(x, y)).save(file)
    return file


def make(
    folder: Path,
    counts: dict[str, int] | None = None,
    colours: Colours = GREY,
    first: int = 0,
) -> Path:
    """Make a folder with some pictures of each class, 12 by default; `first` is the number of the first picture."""
    for name, count in (counts or dict.fromkeys(SYMBOLS, 12)).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            draw(folder / name / f"{number}.png", SYMBOLS.get(name, name[:1]), number, colours)
    return folder
