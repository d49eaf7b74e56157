"""Digits that are not MNIST's: printed in several fonts and strokes, on pages of many kinds, sent as files."""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .conftest import Service

# Fonts that come with matplotlib, so that the set is the same on every machine.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "cmss10",
)
STROKES = (0, 0.02, 0.05)  # added to each side of a line, as shares of the digit's height
SIZES = (50, 80, 150, 300, 600, 2000)
REQUIRED = 0.95


def page(digit: int, font: str, stroke: float, random: np.random.Generator) -> Image.Image:
    """One digit on a page: dark or light, off-centre, of many sizes, the ground not quite even."""
    size = int(random.choice(SIZES))
    file = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    height = size * random.uniform(0.35, 0.75)
    drawn = ImageFont.truetype(file, round(height / 0.75))
    width = round(stroke * height)
    left, top, right, bottom = drawn.getbbox(str(digit), stroke_width=width)
    x, y = (random.uniform(0.05, 0.95) * max(size - extent, 0) for extent in (right - left, bottom - top))
    picture = Image.new("L", (size, size), 0)
    ImageDraw.Draw(picture).text((x - left, y - top), str(digit), fill=255, font=drawn, stroke_width=width)
    ground, ink = random.integers(0, 40), random.integers(190, 256)
    shade = ground + np.asarray(picture, np.float32) * ((ink - ground) / 255)
    shade += random.normal(0, 4, shade.shape).astype(np.float32)
    if random.random() < 0.5:
        shade = 255 - shade
    return Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))


def as_file(picture: Image.Image, random: np.random.Generator) -> bytes:
    content = io.BytesIO()
    if random.random() < 0.3:
        picture.save(content, "PNG", compress_level=1)
    else:
        picture.save(content, "JPEG", quality=int(random.integers(25, 75)))
    return content.getvalue()


def test_printed_digits_are_read(service: Service) -> None:
    cases = [(digit, font, stroke) for font in FONTS for stroke in STROKES for digit in range(10)]
    missed: list[str] = []
    for number, (digit, font, stroke) in enumerate(cases):
        random = np.random.default_rng(number)
        picture = page(digit, font, stroke, random)
        answer = service.client.post("/predict/files", files={"files": as_file(picture, random)}).json()
        if answer[0]["digit"] != digit:
            read = f"read as {answer[0]['digit']}, {answer[0]['confidence']:.1%}"
            missed.append(f"case {number}: {digit} in {font}, stroke {stroke}, {picture.width} px, {read}")
    right = 1 - len(missed) / len(cases)
    told = "\n".join([f"{right:.1%} of {len(cases)} printed digits are read right; missed:", *missed])
    print(told)
    assert right >= REQUIRED, told
