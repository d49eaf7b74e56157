"""Pictures of the convolutions: their filters, how these develop, and their feature maps of pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.report.style import GREY, canvas, picture_tile, scale, tile

WEIGHTS = {"cmap": "PuOr_r"}  # orange above zero, purple below
MOST = 64  # filters per picture
SECOND, KERNELS, PATCHES = 8, 4, 6  # second-layer filters per picture; kernels and patches of each


def draw_filters(weights: Tensor) -> Figure:
    """Draw the first layer's filters on one scale, the strongest first, eight in a row like the chapter.

    Args:
        weights: float32 [filters, channels, height, width].
    """
    kernels = weights.numpy()
    strongest = np.argsort(-np.linalg.norm(kernels.reshape(len(kernels), -1), axis=1), kind="stable")[:MOST]
    reach = _reach(weights)
    rows = -(-len(strongest) // 8)
    figure, axes = canvas(
        1.3 * rows + 0.05,
        f"First-layer filters: {_counted(len(strongest), len(kernels))}, the strongest first",
        "Ink on orange raises the response, ink on purple lowers it. Look for edges, lines and their directions."
        if weights.shape[1] == 1
        else "The colours that raise the response most; grey has no effect. Look for edges and contrasts of colours.",
    )
    for place, number in enumerate(strongest):
        left, top = 0.1 + 1.11 * (place % 8), 1.3 * (place // 8)
        axes.text(left + 0.5, top + 0.12, f"filter {number}", fontsize=9, ha="center", va="center")
        image = _filter_tile(axes, kernels[number], left, top + 0.25, 1.0, reach)
    if weights.shape[1] == 1:
        scale(figure, image, 9.15, 0.25, 1.3 * rows - 0.3, "weight")
    return figure


def draw_second_layer(first: Tensor, second: Tensor, images: Tensor, maps: Tensor) -> Figure:
    """Draw the strongest second-layer filters: their main inputs and the patches with the strongest response.

    Source of the patches: Zeiler & Fergus, "Visualizing and Understanding Convolutional
    Networks" (2014), section 4.

    Args:
        first: the first layer's weights, float32 [inputs, channels, height, width].
        second: the second layer's weights, float32 [filters, inputs, height, width].
        images: uint8 [n, height, width] or [n, height, width, 3].
        maps: second-layer feature maps of these pictures, float32 [n, filters, side, side], after the ReLU.
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
    axes.text(5.25, 0.1, "strongest response: patches of test pictures", fontsize=9)
    for row, number in enumerate(strongest):
        top = 0.25 + 1.05 * row
        axes.text(0.1, top + 0.45, f"filter\n{number}", fontsize=9, va="center")
        main = second[number].flatten(1).norm(dim=1).argsort(descending=True)[:inputs]
        for place, read in enumerate(main.tolist()):
            left = 0.95 + 1.02 * place
            _filter_tile(axes, first[read].numpy(), left, top, 0.42, first_reach)
            tile(axes, second[number, read].numpy(), left, top + 0.47, 0.42, vmin=-reach, vmax=reach, **WEIGHTS)
            axes.text(left + 0.47, top + 0.21, f"{read}", fontsize=8, va="center", color=GREY)
        patches = find_patches(images, maps[:, number], first.shape[-1], second.shape[-1], PATCHES)
        for place, patch in enumerate(patches):
            picture_tile(axes, patch.numpy(), 5.25 + 0.78 * place, top + 0.1, 0.72)
    return figure


def find_patches(images: Tensor, maps: Tensor, first_side: int, second_side: int, most: int) -> Tensor:
    """Cut out the patches with the strongest response of a second-layer filter, at most one per picture.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3], as high as wide.
        maps: the filter's feature maps, float32 [n, side, side].
        first_side: side of the first layer's filters.
        second_side: side of the second layer's filters.
        most: maximal number of patches.

    Returns:
        uint8 [n, seen, seen] or [n, seen, seen, 3], n at most `most`: receptive fields, the strongest response first;
        black beyond the edge.
    """
    side = maps.shape[-1]
    stride = images.shape[1] // side
    seen, before = receptive_field(first_side, second_side, stride)
    beside = (before, seen)
    padded = functional.pad(images, (*beside, *beside) if images.ndim == 3 else (0, 0, *beside, *beside))
    best, places = maps.flatten(1).max(dim=1)
    chosen = best.argsort(descending=True, stable=True)[:most].tolist()
    patches = []
    for number in chosen:
        top, left = (stride * place for place in divmod(int(places[number]), side))
        patches.append(padded[number, top : top + seen, left : left + seen])
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
        growth: weights by number of finished epochs, from 0: float32 [filters, channels, height, width].
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
            image = _filter_tile(axes, growth[epoch][number].numpy(), 0.83 + 0.81 * column, top, 0.74, reach)
            if not column:
                axes.text(0.1, top + 0.37, f"filter {number}", fontsize=9, va="center")
    if last.shape[1] == 1:
        scale(figure, image, 0.95 + 0.81 * len(growth), 0.3, 0.82 * len(strongest) - 0.08, "weight")
    return figure


def draw_feature_maps(images: Tensor, maps: Sequence[Tensor]) -> Figure:
    """Draw pictures, one per row, with some feature maps of every convolution.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3].
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
        (side + 0.03) * len(images) + 0.5,
        f"Feature maps of {layers} for {'a picture' if len(images) == 1 else 'pictures of different classes'}",
        "A column is one filter, bright where it responds: first to strokes, in deeper layers to larger shapes.",
    )
    for row, image in enumerate(images):
        picture_tile(axes, image.numpy(), 0.1, 0.45 + (side + 0.03) * row, side)
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
            for row in range(len(images)):
                tile(
                    axes, layer[row, channel].numpy(), left, 0.45 + (side + 0.03) * row, side,
                    cmap="magma", vmin=0, vmax=brightest,
                )  # fmt: skip
            left += side + 0.03
        left += gap - 0.03
    return figure


def _filter_tile(
    axes: Axes, weights: NDArray[np.float32], left: float, top: float, side: float, reach: float
) -> AxesImage:
    """Draw a first-layer filter, float32 [channels, height, width]: three channels as the colour that it prefers."""
    if len(weights) == 1:
        return tile(axes, weights[0], left, top, side, vmin=-reach, vmax=reach, **WEIGHTS)
    return tile(axes, 0.5 + weights.transpose(1, 2, 0) / (2 * reach), left, top, side)


def _reach(weights: Tensor) -> float:
    """Return the limit of a scale that is symmetric around zero."""
    return float(weights.abs().max())


def _counted(shown: int, total: int) -> str:
    return f"all {total}" if shown == total else f"{shown} of {total}"


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"
