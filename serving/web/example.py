"""One digit of MNIST's test set as a body for each route: the examples of `/docs.json`, which work when sent."""

from __future__ import annotations

import struct

from serving.contract import SIDE

DIGIT = 7
# Its ink in seven shades, row by row, and where the first character is: enough to be read, and short.
SHADES = 7
TOP, LEFT = 6, 7
INK = (
    "662",
    "5777441",
    "156777751",
    "  12566763",
    "     1 1571",
    "        374",
    "        376",
    "        1772",
    "         76",
    "         761",
    "         772",
    "        1772",
    "        375",
    "        373",
    "        373",
    "        473",
    "        673",
    "        672",
    "        67",
    "        67",
)


def image(strongest: int = 252) -> list[list[int]]:
    """Draw the digit: 28 rows of 28 integers, 0 = background, `strongest` = full ink."""
    rows = [[0] * SIDE for _ in range(SIDE)]
    for y, line in enumerate(INK):
        for x, shade in enumerate(line):
            rows[TOP + y][LEFT + x] = int(shade.strip() or 0) * strongest // SHADES
    return rows


def raw() -> str:
    """Write the image as 784 characters whose UTF-8 is the body: a document in JSON can hold bytes below 128 only."""
    return "".join(chr(pixel) for row in image(strongest=126) for pixel in row)


def picture() -> str:
    """Write the image as a BMP file all of whose bytes are below 128, for the same reason: 16 shades of grey at most.

    The format: Microsoft, "Bitmap storage", BITMAPFILEHEADER and BITMAPINFOHEADER.
    """
    # Two pixels in a byte, a row filled up to a multiple of four bytes, the last row first.
    lines = [[shade * 16 + following for shade, following in _pairs(row)] + [0, 0] for row in image(strongest=SHADES)]
    pixels = bytes(byte for line in reversed(lines) for byte in line)
    palette = b"".join(bytes([18 * shade] * 3 + [0]) for shade in range(SHADES + 1))
    about = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 4, 0, 0, 0, 0, SHADES + 1, 0)
    start = 14 + len(about) + len(palette)
    return (struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + about + palette + pixels).decode("ascii")


def _pairs(row: list[int]) -> list[tuple[int, int]]:
    return list(zip(row[::2], row[1::2], strict=True))
