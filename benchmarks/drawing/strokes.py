"""A digit's pixels as the strokes that draw it: thinned to lines one pixel wide, which are then followed."""

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from above


def strokes(digit: NDArray[np.uint8]) -> list[list[Point]]:
    """Lines through the ink of uint8 `[28, 28]`: lists of (x, y) from 0 to 1, each of at least two points."""
    left = {(int(y), int(x)) for y, x in np.argwhere(_thinned(digit > 100))}
    drawn: set[tuple[int, int]] = set()
    lines = []

    def around(place: tuple[int, int], places: set[tuple[int, int]]) -> list[tuple[int, int]]:
        # Straight neighbours first: a line does not jump over a corner's pixel.
        near = [(place[0] + y, place[1] + x) for y, x in sorted(NEIGHBOURS, key=lambda step: abs(step[0] * step[1]))]
        return [each for each in near if each in places]

    while left:
        # An end of a line if there is one; in a ring, anywhere.
        place = min(left, key=lambda each: (len(around(each, left | drawn)), each))
        line = around(place, drawn)[:1]  # from where another line passed
        while place:
            left.discard(place)
            line.append(place)
            drawn.add(place)
            following = around(place, left)
            if not following:
                line += [each for each in around(place, drawn) if each not in line[-3:]][:1]  # closes a ring
            place = following[0] if following else None
        lines.append(_smoothed(line if len(line) > 1 else line * 2))
    return lines


def _smoothed(line: list[tuple[int, int]]) -> list[Point]:
    """Take the steps of the pixels out, as a hand does: each point is the mean of those around it."""
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
            above, right, below, beside = p[0], p[2], p[4], p[6]
            # First from below and the right, then from above and the left.
            corner, rest = (right & below, (above, beside)) if first else (above & beside, (right, below))
            spare = ~(corner & rest[0]) & ~(corner & rest[1])
            gone = ink & (count >= 2) & (count <= 6) & (ends == 1) & spare
            changed |= bool(gone.any())
            ink = ink & ~gone
    return ink[1:-1, 1:-1]
