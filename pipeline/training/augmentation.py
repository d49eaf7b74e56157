"""Augmentation: random distortion of each digit in each epoch, computed for a whole batch at once."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.recipes import Augmentation


def distort(images: Tensor, bounds: Augmentation, generator: torch.Generator) -> Tensor:
    """Distort each picture by its own random affine map and its own change of stroke thickness.

    Args:
        images: float32 [n, 28, 28], 0 for background.
        bounds: of the distortion.
        generator: on the same device; five random numbers per picture, six if the thickness has a bound.

    Returns:
        float32 [n, 28, 28].
    """
    images = transform(images, bounds, generator)
    if bounds.thickness:
        pixels = torch.rand(len(images), generator=generator, device=images.device).mul_(2).sub_(1) * bounds.thickness
        images = thicken(images, pixels)
    return images


def thicken(images: Tensor, pixels: Tensor) -> Tensor:
    """Move the edges of the strokes outwards, or inwards if `pixels` is negative.

    Interpolates between the picture and its grey-scale dilation or erosion by one pixel. Source: Serra, "Image
    Analysis and Mathematical Morphology" (1982).

    Args:
        images: float32 [n, 28, 28], 0 for background.
        pixels: float32 [n], -1 to 1.

    Returns:
        float32 [n, 28, 28].
    """
    share = pixels[:, None, None]
    sign = torch.where(share < 0, -1.0, 1.0)  # erosion is the dilation of the negative
    grown = functional.max_pool2d((images * sign).unsqueeze(1), 3, stride=1, padding=1).squeeze(1) * sign
    return torch.lerp(images, grown, share.abs())


def transform(images: Tensor, bounds: Augmentation, generator: torch.Generator) -> Tensor:
    """Transform each picture by its own random affine map (spatial transformer sampling).

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), sections 3.2 and 3.3.

    Args:
        images: float32 [n, 28, 28], 0 for background.
        bounds: of the map; the thickness is ignored.
        generator: on the same device; five random numbers per picture.

    Returns:
        float32 [n, 28, 28].
    """
    n = len(images)
    angle, stretch, slant, across, down = (
        torch.rand((5, n), generator=generator, device=images.device).mul_(2).sub_(1).unbind()
    )
    angle, slant = angle * math.radians(bounds.rotation), torch.tan(slant * math.radians(bounds.shear))
    zoom = 1 / (1 + stretch * bounds.scale)  # the map leads from target to source pixels
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    unit = 2 / images.shape[-1]  # one pixel on the grid's scale from -1 to 1
    rows = torch.stack(
        [
            torch.stack([cos, cos * slant - sin, across * bounds.shift * unit], dim=1),
            torch.stack([sin, sin * slant + cos, down * bounds.shift * unit], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, [n, 1, 28, 28], align_corners=False)
    return functional.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)
