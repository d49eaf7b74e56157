"""Mean and deviation of the pixels, by which a network normalises its pictures."""

import torch
from torch import Tensor


def moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1], rounded to four decimals so that they are stable.

    They are computed from the histogram of the 256 values, which is exact and needs no copy of the pictures as floats.

    Args:
        images: uint8 [n, height, width], or [n, height, width, 3] for colour.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(-1) if images.ndim == 4 else (images,):
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (shares * values).sum()
        means.append(round(mean.item(), 4))
        deviations.append(round((shares * (values - mean) ** 2).sum().sqrt().item(), 4))
    return tuple(means), tuple(deviations)
