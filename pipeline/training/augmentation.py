"""Augmentation: random distortion of each picture in each epoch, computed for a whole batch at once."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.recipes import Augmentation


def distort(
    images: Tensor,
    bounds: Augmentation,
    generator: torch.Generator,
    padding: Literal["zeros", "border"] = "zeros",
) -> Tensor:
    """Distort each picture by its own random affine map, change of stroke thickness and reflection.

    Args:
        images: float32 [n, height, width] or [n, height, width, 3].
        bounds: of the distortion.
        generator: on the same device; five random numbers per picture for the map, one each for the thickness and the
            reflection, if they have a bound.
        padding: what lies outside a picture: zeros, or its outermost pixels.

    Returns:
        float32, of the same shape.
    """
    planes = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if bounds.rotation or bounds.scale or bounds.shear or bounds.shift:
        planes = transform(planes, bounds, generator, padding)
    if bounds.thickness:
        pixels = torch.rand(len(images), generator=generator, device=images.device).mul_(2).sub_(1) * bounds.thickness
        planes = thicken(planes, pixels)
    if bounds.flip:
        mirrored = torch.rand(len(images), generator=generator, device=images.device) < 0.5
        planes = torch.where(mirrored[:, None, None, None], planes.flip(3), planes)
    return planes.squeeze(1) if images.ndim == 3 else planes.permute(0, 2, 3, 1)


def thicken(images: Tensor, pixels: Tensor) -> Tensor:
    """Move the edges of the strokes outwards, or inwards if `pixels` is negative.

    Interpolates between the picture and its grey-scale dilation or erosion by one pixel. Source: Serra, "Image
    Analysis and Mathematical Morphology" (1982).

    Args:
        images: float32 [n, channels, height, width], 0 for background.
        pixels: float32 [n], -1 to 1.

    Returns:
        float32 [n, channels, height, width].
    """
    share = pixels[:, None, None, None]
    sign = torch.where(share < 0, -1.0, 1.0)  # erosion is the dilation of the negative
    grown = functional.max_pool2d(images * sign, 3, stride=1, padding=1) * sign
    return torch.lerp(images, grown, share.abs())


def transform(
    images: Tensor,
    bounds: Augmentation,
    generator: torch.Generator,
    padding: Literal["zeros", "border"] = "zeros",
) -> Tensor:
    """Transform each picture by its own random affine map (spatial transformer sampling).

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), sections 3.2 and 3.3.

    Args:
        images: float32 [n, channels, height, width].
        bounds: of the map; thickness and reflection are ignored.
        generator: on the same device; five random numbers per picture.
        padding: what lies outside a picture: zeros, or its outermost pixels.

    Returns:
        float32 [n, channels, height, width].
    """
    n = len(images)
    angle, stretch, slant, across, down = (
        torch.rand((5, n), generator=generator, device=images.device).mul_(2).sub_(1).unbind()
    )
    angle, slant = angle * math.radians(bounds.rotation), torch.tan(slant * math.radians(bounds.shear))
    zoom = 1 / (1 + stretch * bounds.scale)  # the map leads from target to source pixels
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # One pixel on the grid's scale from -1 to 1.
    wide, high = 2 / images.shape[3], 2 / images.shape[2]
    rows = torch.stack(
        [
            torch.stack([cos, cos * slant - sin, across * bounds.shift * wide], dim=1),
            torch.stack([sin, sin * slant + cos, down * bounds.shift * high], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)
