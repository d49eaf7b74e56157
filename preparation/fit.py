"""The whole picture, with its proportions kept, on a background of one colour."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preparation.pixels import Pixels, border

EDGE, BLACK = "edge", "black"
BACKGROUNDS = (EDGE, BLACK)
LIGHT = 127.5  # brightness above which a border is light


def fit(whole: Pixels, size: tuple[int, int], background: str) -> NDArray[np.uint8]:
    """Scale a picture to the largest size that fits, with antialiasing, and put it in the middle.

    Args:
        whole: float32 `[height, width]` or `[height, width, 3]`, 0 to 255.
        size: height and width of the result.
        background: colour of the rest. `edge`: the median colour of the picture's border. `black`: 0, and a picture
            with a light border is inverted first, as Fashion-MNIST was made of photographs on white.

    Returns:
        uint8 `[height, width]` or `[height, width, 3]`.
    """
    pixels = np.rint(np.clip(whole, 0, 255)).astype(np.uint8)
    colour = np.rint(np.median(border(whole), axis=0))
    if background == BLACK:
        if np.mean(colour) > LIGHT:
            pixels = 255 - pixels
        colour = np.zeros_like(colour)
    height, width = pixels.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    image = np.empty((*size, *pixels.shape[2:]), np.uint8)
    image[:] = np.clip(colour, 0, 255)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    image[top : top + height, left : left + width] = small
    return image
