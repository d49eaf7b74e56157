"""Pictures for tests: symbols of a font in any size, colour and mode."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Bundled with matplotlib, so that the pictures are the same on every machine.
FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def symbol(
    text: str,
    size: tuple[int, int] = (60, 60),
    ink: tuple[int, int, int] = BLACK,
    paper: tuple[int, int, int] = WHITE,
    place: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """Draw a symbol in RGB; `size` is width and height, and `place` its middle as shares of them."""
    picture = Image.new("RGB", size, paper)
    font = ImageFont.truetype(FONT, 0.7 * min(size))
    where = place[0] * size[0], place[1] * size[1]
    ImageDraw.Draw(picture).text(where, text, fill=ink, font=font, anchor="mm")
    return picture


def in_modes(picture: Image.Image) -> dict[str, Image.Image]:
    """A picture in RGB, whose content is grey, in each mode that files have."""
    grey = picture.convert("L")
    return {
        "RGB": picture,
        "L": grey,
        "P": picture.quantize(256),
        "CMYK": picture.convert("CMYK"),
        "RGBA": picture.convert("RGBA"),
        "LA": grey.convert("LA"),
        "I;16": Image.fromarray(np.asarray(grey, np.uint16) * 257),
        "I": Image.fromarray(np.asarray(grey, np.int32) * 257),
        "F": Image.fromarray(np.asarray(grey, np.float32)),
        "1": grey.convert("1", dither=Image.Dither.NONE),
    }
