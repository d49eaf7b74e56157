"""What convolution and pooling do, in numbers that torch computes, for docs/how-it-works.md.

`make pictures` draws them into docs/pictures, and puts the pictures of the champion's run beside them.
"""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional

from pipeline import PipelineError
from pipeline.report.style import BLUE, COLOURS, GREY, ORANGE, canvas, render
from pipeline.settings import Settings, read
from pipeline.tracking import registry, runs
from pipeline.tracking.connection import connect

PATCH = torch.tensor([[0, 0, 0, 255, 255, 255]] * 6)  # dark on the left, bright on the right
EDGE = torch.tensor([[-1, 0, 1]] * 3)  # looks for just that: a vertical edge
NUMBERS = torch.tensor([[1, 3, 2, 1], [4, 6, 5, 2], [3, 1, 1, 0], [2, 8, 7, 4]])
OF_A_RUN = ("filters", "filters-over-epochs", "second-layer-filters", "feature-maps", "misread-digits", "reliability")
CELL = 0.46  # inches


def convolve(patch: Tensor, weights: Tensor) -> Tensor:
    """A filter's answers at every place of a patch where it fits: int64 [h, w] and [k, k] to [h - k + 1, w - k + 1]."""
    return functional.conv2d(patch[None, None].float(), weights[None, None].float())[0, 0].long()


def pool(numbers: Tensor) -> Tensor:
    """The greatest number of each window of 2x2: int64 [h, w] to [h / 2, w / 2]."""
    return functional.max_pool2d(numbers[None, None].float(), 2)[0, 0].long()


def draw_convolution(patch: Tensor, weights: Tensor) -> Figure:
    """A patch, a filter, and its answers, with the numbers; one window and its answer are marked.

    Args:
        patch: int64 [6, 6], 0 to 255.
        weights: int64 [3, 3].
    """
    answers = convolve(patch, weights)
    figure, axes = canvas(
        3.5,
        "Convolution: the filter slides over the picture, and answers only where the edge is",
        "Each answer is a sum: every pixel of a window of 3x3, times the weight that lies on it.",
    )
    top = 0.45
    _write_grid(axes, patch, 0.25, top, "a patch of the picture", _greys(patch))
    _write_grid(axes, weights, 4.15, top + 1.5 * CELL, "the filter", _signs(weights))
    _write_grid(axes, answers, 7.45, top + CELL, "its answers", _signs(answers))
    for left, word in ((3.55, "\N{MULTIPLICATION SIGN}"), (6.35, "=")):
        axes.text(left, top + 3 * CELL, word, fontsize=24, ha="center", va="center")
    side = len(weights)
    for left, upper, cells in ((0.25 + CELL, top, side), (7.45 + CELL, top + CELL, 1)):
        axes.add_patch(Rectangle((left, upper), cells * CELL, cells * CELL, fill=False, edgecolor=ORANGE, linewidth=3))
    return figure


def draw_pooling(numbers: Tensor) -> Figure:
    """Max pooling in windows of 2x2, with the numbers; each window has a colour, which its answer keeps.

    Args:
        numbers: int64 [4, 4].
    """
    kept = pool(numbers)
    figure, axes = canvas(
        2.6,
        "Max pooling: of each window of 2x2 only the greatest number is kept",
        "A quarter of the numbers is left. Where exactly in the window it was does not matter any more.",
    )
    tints = [[f"{COLOURS[2 * row + column]}40" for column in range(2)] for row in range(2)]
    tints_of_all = [[tints[row // 2][column // 2] for column in range(4)] for row in range(4)]
    won = kept.repeat_interleave(2, 0).repeat_interleave(2, 1) == numbers
    _write_grid(axes, numbers, 2.0, 0.45, "a feature map", tints_of_all, won)
    axes.annotate("", (5.9, 0.45 + 2 * CELL), (4.5, 0.45 + 2 * CELL), arrowprops={"arrowstyle": "-|>", "color": GREY})
    _write_grid(axes, kept, 6.4, 0.45 + CELL, "after pooling", tints, torch.ones_like(kept) > 0)
    return figure


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
            axes.text(
                corner[0] + CELL / 2, corner[1] + CELL / 2, f"{numbers[row, column]}".replace("-", "\N{MINUS SIGN}"),
                ha="center", va="center", fontsize=12, color="white" if fill == "black" else "black",
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


def main(folder: Path) -> None:
    """Draw the two figures into a folder, and put beside them what the champion's run drew.

    Raises:
        PipelineError: there is no champion.
    """
    settings = read(Settings, [], "status")
    connect(settings.state_dir, settings.tracking_timeout)
    champion = registry.by_alias(registry.CHAMPION)
    if champion is None:
        raise PipelineError("There is no champion whose pictures could be shown: train one first.")
    (folder / "convolution.png").write_bytes(render(draw_convolution(PATCH, EDGE)))
    (folder / "pooling.png").write_bytes(render(draw_pooling(NUMBERS)))
    for name in OF_A_RUN:
        (folder / f"{name}.png").write_bytes(runs.read_artifact(champion.run_id, f"pictures/{name}.png"))


if __name__ == "__main__":
    main(Path(__file__).parents[2] / "docs" / "pictures")
