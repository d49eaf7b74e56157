"""Strokes that draw a digit: its ink is thinned to lines one pixel wide, which are then traced."""

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Pixel = tuple[int, int]  # (y, x)
NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from above


def strokes(digit: NDArray[np.uint8]) -> list[list[Point]]:
    """Strokes through the ink of uint8 [28, 28]: lists of at least two points (x, y) from 0 to 1."""
    left = {(int(y), int(x)) for y, x in np.argwhere(_thinned(digit > 100))}
    drawn: set[Pixel] = set()
    lines = []

    def around(place: Pixel, places: set[Pixel]) -> list[Pixel]:
        # Straight neighbours first: a line does not skip the pixel of a corner.
        near = [(place[0] + y, place[1] + x) for y, x in sorted(NEIGHBOURS, key=lambda step: abs(step[0] * step[1]))]
        return [each for each in near if each in places]

    while left:
        # Start at an end of a line if there is one; in a ring, anywhere.
        start = min(left, key=lambda each: (len(around(each, left | drawn)), each))
        line = around(start, drawn)[:1]  # connect to a line that passes
        place: Pixel | None = start
        while place:
            left.discard(place)
            line.append(place)
            drawn.add(place)
            following = around(place, left)
            if not following:
                line += [each for each in around(place, drawn) if each not in line[-3:]][:1]  # close a ring
            place = following[0] if following else None
        lines.append(_smoothed(line if len(line) > 1 else line * 2))
    return lines


def _smoothed(line: list[Pixel]) -> list[Point]:
    """Smooth the steps between pixels: each point is the mean of five neighbours on the line."""
    places = np.pad(np.array(line, np.float64), ((2, 2), (0, 0)), "edge")
    means = [places[index : index + len(line)] for index in range(5)]
    return [(float(x + 0.5) / 28, float(y + 0.5) / 28) for y, x in np.mean(means, 0)]


def _thinned(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """T. Y. Zhang, C. Y. Suen, "A fast parallel algorithm for thinning digital patterns" (1984)."""
    ink = np.pad(ink, 1)
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            p = np.array([np.roll(ink, (-y, -x), (0, 1)) for y, x in NEIGHBOURS])
            count = p.sum(0)
            ends = (~p & np.roll(p, -1, 0)).sum(0)
            above, right, below, left = p[0], p[2], p[4], p[6]
            # The first pass removes pixels from below and the right, the second from above and the left.
            corner, rest = (right & below, (above, left)) if first else (above & left, (right, below))
            spare = ~(corner & rest[0]) & ~(corner & rest[1])
            gone = ink & (count >= 2) & (count <= 6) & (ends == 1) & spare
            changed |= bool(gone.any())
            ink = ink & ~gone
    return ink[1:-1, 1:-1]
