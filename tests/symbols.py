"""A folder of pictures to learn from: symbols of a font of Debian's, each in another colour, size and place.

`python -m tests.symbols FOLDER --classes 10 --per-class 200 300` draws one.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
SYMBOLS = {
    "star": "★", "heart": "♥", "spade": "♠", "club": "♣", "diamond": "♦", "sun": "☀",
    "umbrella": "☂", "telephone": "☎", "aeroplane": "✈", "scissors": "✂", "envelope": "✉", "smile": "☺",
}  # fmt: skip
SUFFIXES = ("png", "jpg", "webp", "bmp")


def draw(symbol: str, chance: random.Random, colour: bool = True) -> Image.Image:
    """Draw one symbol on a plain ground that differs clearly in brightness, 50 to 200 pixels wide."""
    width = chance.randrange(50, 200)
    height = round(width * chance.uniform(0.75, 1.33))
    dark, light = ([chance.randrange(*bounds) for _ in range(3)] for bounds in ((0, 110), (145, 256)))
    if not colour:
        dark, light = [dark[0]] * 3, [light[0]] * 3
    ground, ink = (dark, light) if chance.random() < 0.5 else (light, dark)
    picture = Image.new("RGB", (width, height), tuple(ground))
    side = round(min(width, height) * chance.uniform(0.6, 0.95))
    layer = Image.new("L", (2 * side, 2 * side))
    font = ImageFont.truetype(str(FONT), side)
    ImageDraw.Draw(layer).text((side, side), symbol, 255, font, anchor="mm")
    layer = layer.rotate(chance.uniform(-10, 10), Image.Resampling.BICUBIC)
    box = layer.getbbox()
    assert box, f"{FONT} lacks {symbol}"
    layer = layer.crop(box)
    left, top = (
        round((whole - part) / 2 + whole * chance.uniform(-0.06, 0.06))
        for whole, part in ((width, layer.width), (height, layer.height))
    )
    picture.paste(tuple(ink), (left, top), layer)
    return picture if colour else picture.convert("L")


def make_folder(
    folder: Path, per_class: tuple[int, int] = (60, 200), classes: int = 12, colour: bool = True, seed: int = 1
) -> Path:
    """Fill a folder with one folder of pictures for each class; `per_class` bounds the number of pictures."""
    chance = random.Random(seed)
    for name, symbol in list(SYMBOLS.items())[:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(chance.randint(*per_class)):
            draw(symbol, chance, colour).save(folder / name / f"{number}.{SUFFIXES[number % len(SUFFIXES)]}")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--per-class", type=int, nargs=2, default=(60, 200))
    parser.add_argument("--grey", action="store_true")
    chosen = parser.parse_args()
    make_folder(chosen.folder, tuple(chosen.per_class), chosen.classes, not chosen.grey)
