import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pipeline import pictures
from pipeline.data import DataSet
from pipeline.evaluation import Evaluation, evaluate
from pipeline.networks import MNISTConvNet, Network, normalise
from pipeline.table import Row
from pipeline.training import Epoch

EPOCHS = [Epoch(n, 10 * n, [], 1 / n, 0.9 / n, 1 - 0.1 / n, 1e-3, 1000.0, 1.0) for n in (1, 2, 3)]


ROWS = [
    Row(name, parameters, 1, 8, 3, accuracy, 0.0005, accuracy, 0.0005, seconds, 1000.0)
    for name, parameters, accuracy, seconds in (
        ("dense", 101_770, 0.974, 13.0),
        ("chapter", 421_642, 0.990, 166.0),
        ("dropout", 421_642, 0.9912, 175.0),
        ("best", 141_418, 0.9975, 700.0),
    )
]


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    return " ".join(found + [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center")])


def rendered(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return Image.open(buffer)


@pytest.fixture
def drawn(network: Network, tenth: DataSet) -> dict[str, Figure]:
    assert isinstance(network, MNISTConvNet)
    test = tenth.read_test()
    with torch.inference_mode():
        _, maps = network.examine(normalise(test.images[:1]))
    return {
        "filters": pictures.draw_filters(network.convolutions[0].weight.detach()),
        "feature-maps": pictures.draw_feature_maps(test.images[0], int(test.labels[0]), maps[0][0]),
        "training-curves": pictures.draw_training_curves(EPOCHS),
        "confusion-matrix": pictures.draw_confusion_matrix(evaluate(network, test)),
        "comparison": pictures.draw_comparison(ROWS, "What the numbers are."),
    }


def test_pictures_are_1200_pixels_wide_and_not_empty(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        picture = rendered(figure)
        assert picture.width == 1200, name
        assert np.asarray(picture.convert("L")).std() > 10, name


def test_filters_stand_in_a_grid_of_4_by_8_the_strongest_first(drawn: dict[str, Figure], network: Network) -> None:
    weights = network.get_parameter("convolutions.0.weight").detach().squeeze(1)
    grids = [axes.images[0].get_array() for axes in drawn["filters"].axes if axes.images][:32]
    assert len(grids) == 32
    norms = [float(np.linalg.norm(grid)) for grid in grids if grid is not None]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] == pytest.approx(float(weights.flatten(1).norm(dim=1).max()), rel=1e-6)
    limits = {axes.images[0].get_clim() for axes in drawn["filters"].axes[:32]}
    assert len(limits) == 1  # a shared scale


def test_feature_maps_are_eight_beside_the_digit(drawn: dict[str, Figure]) -> None:
    titles = [axes.get_title(loc="left") for axes in drawn["feature-maps"].axes]
    assert titles[0] == "the digit"
    assert len(titles) == 9
    assert all(title.startswith("filter ") for title in titles[1:])


def test_confusion_matrix_counts() -> None:
    logits = torch.eye(10)[torch.tensor([1, 7, 7])]
    figure = pictures.draw_confusion_matrix(Evaluation(logits, torch.tensor([1, 1, 7])))
    assert "1 of 3 test digits misread" in texts(figure)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "1", "1"]


def test_comparison_names_each_recipe_in_both_panels_and_the_most_accurate_in_its_title() -> None:
    figure = pictures.draw_comparison(ROWS, "What the numbers are.")
    assert "The most accurate is best: 99.75 % of the test digits, with 141,418 parameters" in texts(figure)
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {row.recipe for row in ROWS}
        top, bottom = axes.get_ylim()[::-1]
        assert top < 1 - 0.998  # upside down: the smallest error on top
        assert bottom > 1 - 0.974
        points = [bar.lines[0].get_xydata()[0] for bar in axes.containers]
        assert [1 - error for _, error in points] == pytest.approx([row.test_accuracy_mean for row in ROWS])
    sizes = [[bar.lines[0].get_xdata()[0] for bar in axes.containers] for axes in figure.axes]
    assert sizes == [[row.parameters for row in ROWS], [row.seconds_mean for row in ROWS]]


def test_comparison_can_be_drawn_of_one_recipe_and_of_perfect_ones() -> None:
    rendered(pictures.draw_comparison(ROWS[:1], "One."))
    perfect = Row("perfect", 100, 1, 1, 1, 1.0, None, 1.0, None, 0.01, 1.0)
    rendered(pictures.draw_comparison([perfect], "One."))
    rendered(pictures.draw_comparison([*ROWS, perfect], "Five."))


def test_a_network_without_a_mistake_can_be_drawn() -> None:
    rendered(pictures.draw_confusion_matrix(Evaluation(torch.eye(10), torch.arange(10))))
    perfect = [Epoch(1, 10, [], 0.1, 0.1, 1.0, 1e-3, 1000.0, 1.0)]
    rendered(pictures.draw_training_curves(perfect))


def test_each_picture_says_what_to_see(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        assert len(figure.texts) == 2
        assert figure.texts[1].get_text().endswith(".")
