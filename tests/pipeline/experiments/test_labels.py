import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from pipeline.experiments.labels import name_points

SCATTERED = np.random.default_rng(0).uniform(0.2, 0.8, (8, 2))
CROWDED = 0.5 + 0.02 * SCATTERED


@pytest.mark.parametrize("points", [SCATTERED, CROWDED, SCATTERED[:1]])
def test_names_cover_neither_points_nor_each_other(points: np.ndarray) -> None:
    figure = Figure(figsize=(6, 6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    name_points(axes, [f"recipe-{k}" for k in range(len(points))], points[:, None])
    figure.draw_without_rendering()
    names = [child for child in axes.get_children() if isinstance(child, Annotation)]
    boxes = {name.get_text(): Text.get_window_extent(name) for name in names}  # an annotation's has its line
    assert len(boxes) == len(points)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))
    for point in axes.transData.transform(points):
        assert not any(box.contains(*point) for box in boxes.values())
    assert all(axes.bbox.count_contains(box.corners()) == 4 for box in boxes.values())
