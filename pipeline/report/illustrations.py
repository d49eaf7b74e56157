"""The pictures of docs/how-it-works.md; those of convolution, ReLU and pooling are drawn here, number by number.

`make pictures` draws all of them into docs/pictures, and adds the pictures of the champion's run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional

from pipeline import PipelineError
from pipeline.arguments import read
from pipeline.report import lesson_basics, lesson_recipe
from pipeline.report.style import BLUE, COLOURS, GREY, ORANGE, canvas, render
from pipeline.settings import Settings
from pipeline.tracking import registry, runs
from pipeline.tracking.connection import connect

PATCH = torch.tensor([[0, 0, 0, 255, 255, 255]] * 6)  # dark on the left, bright on the right
EDGE = torch.tensor([[-1, 0, 1]] * 3)  # responds to exactly that: a vertical edge
STROKE = torch.tensor([[0, 0, 0, 255, 255, 255, 0, 0]] * 3)  # an edge of each direction
NUMBERS = torch.tensor([[1, 3, 2, 1], [4, 6, 5, 2], [3, 1, 1, 0], [2, 8, 7, 4]])
OF_A_RUN = ("filters", "filters-over-epochs", "second-layer-filters", "feature-maps", "misclassified", "reliability")
CELL = 0.5  # inches
LARGE: dict[Any, Any] = {"font.size": 14, "axes.titlesize": 14}  # readable at the width of a phone


def convolve(patch: Tensor, weights: Tensor) -> Tensor:
    """A filter's outputs at every place of a patch where it fits: int64 [h, w] and [k, k] to [h - k + 1, w - k + 1]."""
    return functional.conv2d(patch[None, None].float(), weights[None, None].float())[0, 0].long()


def pool(numbers: Tensor) -> Tensor:
    """The largest number of each window of 2x2: int64 [h, w] to [h / 2, w / 2]."""
    return functional.max_pool2d(numbers[None, None].float(), 2)[0, 0].long()


def draw_convolution(patch: Tensor, weights: Tensor) -> Figure:
    """A patch, a filter and its outputs, with the numbers; one window and its output are marked.

    Args:
        patch: int64 [6, 6], 0 to 255.
        weights: int64 [3, 3].
    """
    outputs = convolve(patch, weights)
    figure, axes = canvas(
        3.6,
        "Convolution: the filter slides over the picture and responds only at the edge",
        "Each output is a sum: the nine pixels of a window, each times the weight at its place.",
    )
    top, right = 0.45, 7.6
    _write_grid(axes, patch, 0.25, top, "a patch of the picture", _greys(patch))
    _write_grid(axes, weights, 4.4, top + 1.5 * CELL, "the filter", _signs(weights))
    _write_grid(axes, outputs, right, top + CELL, "its outputs", _signs(outputs))
    for left, word in ((3.83, "\N{MULTIPLICATION SIGN}"), (6.75, "=")):
        axes.text(left, top + 3 * CELL, word, fontsize=24, ha="center", va="center")
    side = len(weights)
    for left, upper, cells in ((0.25 + CELL, top, side), (right + CELL, top + CELL, 1)):
        axes.add_patch(Rectangle((left, upper), cells * CELL, cells * CELL, fill=False, edgecolor=ORANGE, linewidth=3))
    return figure


def draw_relu(patch: Tensor, weights: Tensor) -> Figure:
    """A stroke, a filter's outputs, and what ReLU leaves of them.

    Args:
        patch: int64 [3, 8], 0 to 255.
        weights: int64 [3, 3].
    """
    outputs = convolve(patch, weights)
    figure, axes = canvas(
        3.4,
        "ReLU: everything below zero becomes zero",
        "A bright stroke has two edges. The filter looks for the left one; ReLU drops the opposite one.",
    )
    _write_grid(axes, patch, 0.6, 0.75, "a stroke", _greys(patch))
    _draw_arrow(axes, 4.75, 5.75, 0.75 + 1.5 * CELL)
    _write_grid(axes, outputs, 6.0, 0.75 + CELL, "the filter's outputs", _signs(outputs))
    axes.annotate("", (7.5, 2.55), (7.5, 1.9), arrowprops={"arrowstyle": "-|>", "color": GREY})
    _write_grid(axes, outputs.relu(), 6.0, 2.7, "", _signs(outputs.relu()))
    axes.text(5.8, 2.7 + CELL / 2, "after ReLU", ha="right", va="center", color=GREY)
    return figure


def draw_pooling(numbers: Tensor) -> Figure:
    """Max pooling in windows of 2x2, with the numbers; each window has a colour, which its largest number keeps.

    Args:
        numbers: int64 [4, 4].
    """
    kept = pool(numbers)
    figure, axes = canvas(
        2.7,
        "Max pooling: of each window of 2x2 only the largest number is kept",
        "A quarter of the numbers is left; where in its window the largest stood is forgotten.",
    )
    tints = [[f"{COLOURS[2 * row + column]}40" for column in range(2)] for row in range(2)]
    tints_of_all = [[tints[row // 2][column // 2] for column in range(4)] for row in range(4)]
    won = kept.repeat_interleave(2, 0).repeat_interleave(2, 1) == numbers
    _write_grid(axes, numbers, 1.9, 0.45, "a feature map", tints_of_all, won)
    _draw_arrow(axes, 4.5, 5.9, 0.45 + 2 * CELL)
    _write_grid(axes, kept, 6.4, 0.45 + CELL, "after pooling", tints, torch.ones_like(kept) > 0)
    return figure


# The function for each picture that needs no trained model, by file name.
LESSON: dict[str, Callable[[], Figure]] = {
    "layers": lesson_basics.draw_layers,
    "convolution": lambda: draw_convolution(PATCH, EDGE),
    "relu": lambda: draw_relu(STROKE, EDGE),
    "pooling": lambda: draw_pooling(NUMBERS),
    "softmax": lesson_basics.draw_softmax,
    "cross-entropy": lesson_basics.draw_cross_entropy,
    "gradient": lesson_basics.draw_gradient,
    "gradient-descent": lesson_basics.draw_descent,
    "augmentation": lesson_recipe.draw_augmentation,
    "label-smoothing": lesson_recipe.draw_label_smoothing,
    "learning-rate": lesson_recipe.draw_learning_rate,
    "averaging": lesson_recipe.draw_averaging,
}


def _draw_arrow(axes: Axes, left: float, right: float, height: float) -> None:
    axes.annotate("", (right, height), (left, height), arrowprops={"arrowstyle": "-|>", "color": GREY})


def _write_grid(
    axes: Axes, numbers: Tensor, left: float, top: float, title: str, fills: list[list[str]], bold: Tensor | None = None
) -> None:
    rows, columns = numbers.shape
    axes.text(left + columns * CELL / 2, top - 0.18, title, ha="center", va="center", color=GREY)
    for row in range(rows):
        for column in range(columns):
            corner = (left + column * CELL, top + row * CELL)
            fill = fills[row][column]
            axes.add_patch(Rectangle(corner, CELL, CELL, facecolor=fill, edgecolor=GREY, linewidth=0.8))
            text = f"{numbers[row, column]}".replace("-", "\N{MINUS SIGN}")
            axes.text(
                corner[0] + CELL / 2, corner[1] + CELL / 2, text, ha="center", va="center",
                fontsize=13 if len(text) < 4 else 11, color="white" if fill == "black" else "black",
                fontweight="bold" if bold is not None and bold[row, column] else "normal",
            )  # fmt: skip


def _greys(pixels: Tensor) -> list[list[str]]:
    return [["black" if pixel < 128 else "white" for pixel in row] for row in pixels.tolist()]


def _signs(numbers: Tensor) -> list[list[str]]:
    """Orange above zero and blue below, as strong as the number is large."""
    most = max(1, int(numbers.abs().max()))
    return [
        [f"{ORANGE if number > 0 else BLUE}{round(0x90 * abs(number) / most):02x}" for number in row]
        for row in numbers.tolist()
    ]


def draw_lesson(folder: Path) -> None:
    """Draw into a folder all pictures that need no trained model and no MLflow."""
    with mpl.rc_context(LARGE):
        for name, draw in LESSON.items():
            (folder / f"{name}.png").write_bytes(render(draw()))


def main(folder: Path) -> None:
    """Draw the lesson's pictures into a folder, and add those of the champion's run.

    Raises:
        PipelineError: there is no champion.
    """
    draw_lesson(folder)
    settings = read(Settings, [], "status")
    connect(settings.state_dir, settings.tracking_timeout)
    champion = registry.by_alias(registry.CHAMPION)
    if champion is None:
        raise PipelineError("There is no champion whose pictures could be shown: train one first.")
    for name in OF_A_RUN:
        (folder / f"{name}.png").write_bytes(runs.read_artifact(champion.run_id, f"pictures/{name}.png"))


if __name__ == "__main__":
    main(Path(__file__).parents[2] / "docs" / "pictures")
