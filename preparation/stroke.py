"""Drawings and writing to MNIST-style images, by the procedure that produced MNIST.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition" (1998),
section III.A: scale the digit into 20x20 pixels with its proportions kept and antialiasing, then move its centre
of mass to the centre of 28x28. Other sizes keep these proportions.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preparation.pixels import Pixels, border

BOX = 20 / 28  # the longer side of the ink, as a share of the side
# Centre of mass of MNIST's own digits, measured from the middle of the first pixel: 14.0 of 28, +-0.3.
CENTRE = 14 / 28
FAINTEST = 24  # minimum difference in brightness between ink and background
FAINT = 0.1  # pixels above this share of the strongest ink belong to the extent of the ink
NOISIEST = 0.4  # maximum background noise, as a share of the strongest ink

Size = tuple[int, int]  # height, width


def stroke(grey: Pixels, size: Size) -> NDArray[np.uint8] | None:
    """Find the ink, dark on light or light on dark, scale it and centre it by mass.

    Args:
        grey: float32 `[height, width]`, 0 to 255.
        size: height and width of the result.

    Returns:
        uint8 `[height, width]`, 0 = background, 255 = ink; None for a blank picture.
    """
    ink = _ink(grey)
    if ink is None:
        return None
    box = round(BOX * size[0]), round(BOX * size[1])
    centre = CENTRE * size[0], CENTRE * size[1]
    if _is_in_form(ink, size, box, centre):
        return np.rint(ink).astype(np.uint8)
    rows, columns = _extent(ink > FAINT * ink.max())
    drawing = Image.fromarray(ink[rows, columns])
    scale = _scale(rows, columns, box)
    width, height = max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale))
    small = np.asarray(drawing.resize((width, height), Image.Resampling.BICUBIC))
    # Thin strokes turn grey when scaled down; MNIST's strokes reach full intensity.
    small = np.clip(small * (255 / small.max()), 0, 255)
    image = np.zeros(size, np.float32)
    y, x = _centre(small)
    top = min(max(round(centre[0] - y), 0), size[0] - height)
    left = min(max(round(centre[1] - x), 0), size[1] - width)
    image[top : top + height, left : left + width] = small
    return np.rint(image).astype(np.uint8)


def _ink(grey: Pixels) -> Pixels | None:
    """Separate the ink from the background: float32 `[height, width]`, 0 to 255 = full ink; None if blank."""
    edge = border(grey)
    background = float(np.median(edge))
    darker, lighter = background - float(grey.min()), float(grey.max()) - background
    strongest = max(darker, lighter)
    if strongest < FAINTEST:
        return None
    # Deviations from the median along the edge are noise, unless the ink touches the edge.
    noise = min(float(np.percentile(np.abs(edge - background), 90)), NOISIEST * strongest)
    ink = (background - grey) if darker > lighter else (grey - background)
    return np.asarray(np.maximum(ink - noise, 0), np.float32)


def _is_in_form(ink: Pixels, size: Size, box: Size, centre: tuple[float, float]) -> bool:
    if ink.shape != size:
        return False
    if _scale(*_extent(ink > 0), box) != 1:
        return False
    return ink.max() > 200 and max(abs(is_at - to) for is_at, to in zip(_centre(ink), centre, strict=True)) < 1


def _scale(rows: slice, columns: slice, box: Size) -> float:
    return float(min(box[0] / (rows.stop - rows.start), box[1] / (columns.stop - columns.start)))


def _extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _centre(ink: Pixels) -> tuple[float, float]:
    """Return the centre of mass (row, column), in pixels from the middle of the first pixel."""
    total = ink.sum()
    rows = (ink.sum(1) * np.arange(ink.shape[0])).sum() / total
    columns = (ink.sum(0) * np.arange(ink.shape[1])).sum() / total
    return float(rows), float(columns)
