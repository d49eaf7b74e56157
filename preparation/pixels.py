"""Pixels of a picture of any mode: upright, opaque, and averaged down to a working size."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Larger pictures are averaged down to this first: no form has more than 64 pixels, and the later steps are cheap.
WORKING_SIDE = 320
LINES_PER_BAND = 16  # of the smaller picture
MODES = {1: "L", 3: "RGB"}  # Pillow's mode for each number of channels
LUMINANCE = (0.299, 0.587, 0.114)  # as Pillow converts to grey (ITU-R BT.601)
UPRIGHT = {  # by EXIF's orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = NDArray[np.float32]


def opaque(picture: Image.Image, channels: int, upright: Image.Transpose | None) -> Pixels:
    """Return the opaque pixels at the working size: float32 `[height, width]` or `[height, width, 3]`, 0 to 255."""
    if picture.mode.startswith(("I", "F")):  # 16 bits, which Pillow's conversion to "L" clips at 255
        largest = np.max(picture.getextrema())
        grey = np.asarray(_smaller(picture, "F", upright) / (257 if largest > 255 else 1), np.float32)
        return grey if channels == 1 else np.repeat(grey[..., None], channels, axis=2)
    if not picture.has_transparency_data:
        return _smaller(picture, MODES[channels], upright)
    layers = _smaller(picture, "RGBA", upright)
    alpha = layers[..., 3] / 255
    shade = layers[..., :3] @ np.array(LUMINANCE, np.float32)
    # A dark drawing gets a white background, a light one a black background.
    background = 255.0 if (shade * alpha).sum() < 127.5 * alpha.sum() else 0.0
    if channels == 1:
        return np.asarray(shade * alpha + background * (1 - alpha), np.float32)
    alpha = alpha[..., None]
    return np.asarray(layers[..., :3] * alpha + background * (1 - alpha), np.float32)


def border(whole: Pixels) -> Pixels:
    """Return the outermost pixels: float32 `[n]` or `[n, 3]`; the corners are in it twice."""
    return np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])


def _smaller(picture: Image.Image, mode: str, upright: Image.Transpose | None) -> Pixels:
    """Convert to `mode`, average down to the working size and turn upright: float32 `[height, width, ...]`.

    Works in bands, because each step of Pillow makes a copy: a large picture is in memory only once.
    """
    width, height = picture.size
    factor = max(picture.size) // WORKING_SIDE
    if factor > 1:
        small = Image.new(mode, (-(-width // factor), -(-height // factor)))
        for line in range(0, small.height, LINES_PER_BAND):
            band = picture.crop((0, line * factor, width, min((line + LINES_PER_BAND) * factor, height)))
            small.paste(band.convert(mode).reduce(factor), (0, line))
    else:
        small = picture.convert(mode)
    return np.asarray(small if upright is None else small.transpose(upright), np.float32)
