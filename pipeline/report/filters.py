"""Pictures of the convolutions: their filters, how these develop, and their feature maps of digits."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from pipeline.report.style import GREY, canvas, scale, tile

WEIGHTS = {"cmap": "PuOr_r"}  # orange above zero, purple below
MOST = 64  # filters per picture
SECOND, KERNELS, PATCHES = 8, 4, 6  # second-layer filters per picture; kernels and patches of each


def draw_filters(weights: Tensor) -> Figure:
    """Draw the first layer's filters on one scale, the strongest first, eight in a row like the chapter.

    Args:
        weights: float32 [filters, 1, height, width].
    """
    kernels = weights.squeeze(1).numpy()
    strongest = np.argsort(-np.linalg.norm(kernels, axis=(1, 2)), kind="stable")[:MOST]
    reach = _reach(weights)
    rows = -(-len(strongest) // 8)
    figure, axes = canvas(
        1.3 * rows + 0.05,
        f"First-layer filters: {_counted(len(strongest), len(kernels))}, the strongest first",
        "Ink on orange raises the response, ink on purple lowers it. Look for edges, lines and their directions.",
    )
    for place, number in enumerate(strongest):
        left, top = 0.1 + 1.11 * (place % 8), 1.3 * (place // 8)
        axes.text(left + 0.5, top + 0.12, f"filter {number}", fontsize=9, ha="center", va="center")
        image = tile(axes, kernels[number], left, top + 0.25, 1.0, vmin=-reach, vmax=reach, **WEIGHTS)
    scale(figure, image, 9.15, 0.25, 1.3 * rows - 0.3, "weight")
    return figure


def draw_second_layer(first: Tensor, second: Tensor, digits: Tensor, maps: Tensor) -> Figure:
    """Draw the strongest second-layer filters: their main inputs and the patches with the strongest response.

    Source of the patches: Zeiler & Fergus, "Visualizing and Understanding Convolutional
    Networks" (2014), section 4.

    Args:
        first: the first layer's weights, float32 [inputs, 1, height, width].
        second: the second layer's weights, float32 [filters, inputs, height, width].
        digits: uint8 [n, 28, 28].
        maps: second-layer feature maps of these digits, float32 [n, filters, side, side], after the ReLU.
    """
    strongest = second.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:SECOND].tolist()
    reach, first_reach = _reach(second[strongest]), _reach(first)
    inputs = min(KERNELS, len(first))
    figure, axes = canvas(
        1.05 * len(strongest) + 0.5,
        f"Second-layer filters: {_counted(len(strongest), len(second))}, the strongest first",
        "Each combines first-layer feature maps (left), and so responds to larger shapes (right).",
    )
    axes.text(0.95, 0.1, "main inputs: first-layer filter (above), weights (below)", fontsize=9)
    axes.text(5.25, 0.1, "strongest response: patches of test digits", fontsize=9)
    for row, number in enumerate(strongest):
        top = 0.25 + 1.05 * row
        axes.text(0.1, top + 0.45, f"filter\n{number}", fontsize=9, va="center")
        main = second[number].flatten(1).norm(dim=1).argsort(descending=True)[:inputs]
        for place, read in enumerate(main.tolist()):
            left = 0.95 + 1.02 * place
            tile(axes, first[read, 0].numpy(), left, top, 0.42, vmin=-first_reach, vmax=first_reach, **WEIGHTS)
            tile(axes, second[number, read].numpy(), left, top + 0.47, 0.42, vmin=-reach, vmax=reach, **WEIGHTS)
            axes.text(left + 0.47, top + 0.21, f"{read}", fontsize=8, va="center", color=GREY)
        patches = find_patches(digits, maps[:, number], first.shape[-1], second.shape[-1], PATCHES)
        for place, patch in enumerate(patches):
            tile(axes, patch.numpy(), 5.25 + 0.78 * place, top + 0.1, 0.72, cmap="gray", vmin=0, vmax=255)
    return figure


def find_patches(digits: Tensor, maps: Tensor, first_side: int, second_side: int, most: int) -> Tensor:
    """Cut out the patches with the strongest response of a second-layer filter, at most one per digit.

    Args:
        digits: uint8 [n, 28, 28].
        maps: the filter's feature maps, float32 [n, side, side].
        first_side: side of the first layer's filters.
        second_side: side of the second layer's filters.
        most: maximal number of patches.

    Returns:
        uint8 [at most `most`, seen, seen]: receptive fields, the strongest response first; black beyond the edge.
    """
    side = maps.shape[-1]
    stride = digits.shape[-1] // side
    seen, before = receptive_field(first_side, second_side, stride)
    padded = functional.pad(digits, (before, seen, before, seen))
    best, places = maps.flatten(1).max(dim=1)
    chosen = best.argsort(descending=True, stable=True)[:most].tolist()
    patches = []
    for digit in chosen:
        top, left = (stride * place for place in divmod(int(places[digit]), side))
        patches.append(padded[digit, top : top + seen, left : left + seen])
    return torch.stack(patches)


def receptive_field(first_side: int, second_side: int, stride: int) -> tuple[int, int]:
    """Compute the side of a second-layer filter's receptive field in pixels, and how many lie before its position.

    Args:
        first_side: side of the first layer's filters.
        second_side: side of the second layer's filters.
        stride: pixels between two positions: 2 if the first layer is pooled, otherwise 1.
    """
    return first_side + (stride - 1) + (second_side - 1) * stride, first_side // 2 + stride * (second_side // 2)


def draw_growth(growth: Mapping[int, Tensor]) -> Figure:
    """Draw how the strongest first-layer filters develop: one row per filter, one column per epoch, on one scale.

    Args:
        growth: weights by number of finished epochs, from 0: float32 [filters, 1, height, width].
    """
    last = growth[max(growth)]
    strongest = last.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:8].tolist()
    reach = max(map(_reach, growth.values()))
    figure, axes = canvas(
        0.82 * len(strongest) + 0.4,
        "First-layer filters over the epochs: from random weights to detectors of edges and lines",
        f"Left: the random start. Right: after {_epochs(max(growth))}. Note when a filter takes shape.",
    )
    for column, epoch in enumerate(sorted(growth)):
        axes.text(1.2 + 0.81 * column, 0.15, _epochs(epoch) if epoch else "start", fontsize=9, ha="center")
        for row, number in enumerate(strongest):
            top = 0.3 + 0.82 * row
            image = tile(
                axes, growth[epoch][number, 0].numpy(), 0.83 + 0.81 * column, top, 0.74,
                vmin=-reach, vmax=reach, **WEIGHTS,
            )  # fmt: skip
            if not column:
                axes.text(0.1, top + 0.37, f"filter {number}", fontsize=9, va="center")
    scale(figure, image, 0.95 + 0.81 * len(growth), 0.3, 0.82 * len(strongest) - 0.08, "weight")
    return figure


def draw_feature_maps(digits: Tensor, maps: Sequence[Tensor]) -> Figure:
    """Draw digits, one per row, with some feature maps of every convolution.

    Args:
        digits: uint8 [n, 28, 28].
        maps: of each convolution, float32 [n, channels, side, side], after the ReLU.
    """
    of_each = max(1, 14 // len(maps))
    # The filters whose maps vary most over the picture: a uniformly bright map shows nothing.
    chosen = [layer.var(dim=(2, 3)).mean(dim=0).argsort(descending=True)[:of_each].sort().values for layer in maps]
    columns = sum(map(len, chosen))
    gap = 0.14  # between layers
    side = min(0.8, (9.8 - gap * len(maps)) / (1 + columns)) - 0.03
    layers = "one layer" if len(maps) == 1 else "two layers" if len(maps) == 2 else f"{len(maps)} layers"
    figure, axes = canvas(
        (side + 0.03) * len(digits) + 0.5,
        f"Feature maps of {layers} for {'a digit' if len(digits) == 1 else 'one digit of each class'}",
        "A column is one filter, bright where it responds: first to strokes, in deeper layers to larger shapes.",
    )
    for row, digit in enumerate(digits):
        tile(axes, digit.numpy(), 0.1, 0.45 + (side + 0.03) * row, side, cmap="gray", vmin=0, vmax=255)
    left = 0.1 + side + gap
    for number, (layer, filters) in enumerate(zip(maps, chosen, strict=True), start=1):
        axes.text(
            left,
            0.12,
            f"layer {number}" + (f": {len(filters)} of {layer.shape[1]} filters" * (len(maps) < 4)),
            fontsize=9,
        )
        for channel in filters.tolist():
            axes.text(left + side / 2, 0.34, f"{channel}", fontsize=8, ha="center", color=GREY)
            brightest = float(layer[:, channel].max())
            for row in range(len(digits)):
                tile(
                    axes, layer[row, channel].numpy(), left, 0.45 + (side + 0.03) * row, side,
                    cmap="magma", vmin=0, vmax=brightest,
                )  # fmt: skip
            left += side + 0.03
        left += gap - 0.03
    return figure


def _reach(weights: Tensor) -> float:
    """Return the limit of a scale that is symmetric around zero."""
    return float(weights.abs().max())


def _counted(shown: int, total: int) -> str:
    return f"all {total}" if shown == total else f"{shown} of {total}"


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"
