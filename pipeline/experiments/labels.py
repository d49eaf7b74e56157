"""Names beside points: each where it covers neither a point nor another name, with a line to its point."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.transforms import Bbox, BboxBase
from numpy.typing import NDArray

REACHES = (10, 22, 34, 48, 68, 93)  # dots between a point and its name
SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)])


def name_points(axes: Axes, names: Sequence[str], marks: NDArray[np.float64]) -> None:
    """Write each name at a free place beside its point, the most crowded point first.

    Args:
        axes: where; its figure has a canvas and was laid out, and both stay as they are.
        names: of the points.
        marks: [points, n, 2], in the coordinates of the data: the point itself, and what else belongs to it.
    """
    dots = axes.transData.transform(marks.reshape(-1, 2)).reshape(marks.shape)
    points = dots[:, 0]
    taken = [Bbox([mark.min(axis=0) - 7, mark.max(axis=0) + 7]) for mark in dots]
    lines: list[Path] = []
    for k in np.linalg.norm(points[:, None] - points, axis=2).sum(axis=0).argsort():
        name = axes.annotate(
            names[k], points[k], points[k], xycoords="figure pixels", textcoords="figure pixels", ha="center",
            va="center", fontsize=10, in_layout=False, zorder=1,
            arrowprops={"arrowstyle": "-", "color": "#595959", "linewidth": 0.8, "shrinkB": 0},
        )  # fmt: skip
        half = np.array(name.get_window_extent().size) / 2 + 2
        place = _find_place(axes.bbox, points[k], half, taken[k], taken[:k] + taken[k + 1 :], lines)
        name.set_position(tuple(place))
        taken.append(Bbox([place - half, place + half]))
        lines.append(Path([points[k], place]))


def _find_place(
    frame: BboxBase,
    point: NDArray[np.float64],
    half: NDArray[np.float64],
    own: Bbox,
    taken: list[Bbox],
    lines: list[Path],
) -> NDArray[np.float64]:
    """The centre of the nearest place for a name of that half size that covers and crosses nothing, or the least."""

    def trouble(place: NDArray[np.float64]) -> int:
        box, line = Bbox([place - half, place + half]), Path([point, place])
        outside = frame.count_contains(box.corners()) < 4
        covered = box.count_overlaps([own, *taken])
        crossed = sum(line.intersects_bbox(other, filled=False) for other in taken)
        crossed += sum(other.intersects_bbox(box, False) or other.intersects_path(line, False) for other in lines)
        return 100 * outside + 10 * covered + crossed

    return min((point + side * (reach + half) for reach in REACHES for side in SIDES), key=trouble)
