import itertools

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from torch import Tensor

from pipeline.data.dataset import DataSet, Samples
from pipeline.evaluation import Evaluation, evaluate
from pipeline.networks import Network
from pipeline.report import mistakes
from pipeline.report.style import ORANGE, render

DIGITS = tuple("0123456789")
PERFECT = Evaluation(9 * torch.eye(10), torch.arange(10))


@pytest.fixture
def test_split(tenth: DataSet) -> Samples:
    return tenth.read_test()


@pytest.fixture
def test(network: Network, test_split: Samples) -> Evaluation:
    return evaluate(network, test_split)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def title(figure: Figure) -> str:
    return figure.texts[0].get_text()


def answers(*confident: tuple[int, int, float]) -> tuple[Samples, Evaluation]:
    """Return digits and predictions from label, prediction and confidence; the next class has the remaining share."""
    probabilities = torch.full((len(confident), 10), 1e-6)
    for row, (_, answer, confidence) in enumerate(confident):
        probabilities[row, answer], probabilities[row, (answer + 1) % 10] = confidence, 1 - confidence
    labels = torch.tensor([label for label, _, _ in confident])
    images = torch.arange(len(confident), dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    return Samples(images, labels), Evaluation(probabilities.log(), labels)


def numbers_of(figure: Figure) -> list[int]:
    """Return the places of the digits of `answers` that are shown."""
    return [int(np.asarray(image.get_array())[0, 0]) for image in figure.axes[0].images]


def bars(axes: Axes) -> dict[float, float]:
    """Return the heights of bars by their left edges."""
    heights = {}
    for bar in axes.patches:
        assert isinstance(bar, Rectangle)
        heights[bar.get_x()] = bar.get_height()
    return heights


def test_confusion_matrix_shows_counts() -> None:
    logits = torch.eye(10)[torch.tensor([1, 7, 7])]
    figure = mistakes.draw_confusion_matrix(Evaluation(logits, torch.tensor([1, 1, 7])), DIGITS)
    assert "1 of 3 test pictures misclassified" in title(figure)
    assert sorted(words(figure)) == ["1", "1", "1"]


def test_misclassified_digits_are_sorted_by_confidence() -> None:
    digits, test = answers((3, 3, 0.99), (4, 9, 0.6), (2, 7, 0.9), (5, 5, 0.5), (0, 6, 0.75))
    figure = mistakes.draw_misclassified(digits, test, 1.0, DIGITS)
    assert numbers_of(figure) == [2, 4, 1]
    assert words(figure) == ["2 read as 7", "90.0% sure", "0 read as 6", "75.0% sure", "4 read as 9", "60.0% sure"]
    assert "3 of 5 test pictures" in title(figure)


def test_confidence_is_calibrated_and_never_100_percent() -> None:
    digits, test = answers((4, 9, 0.9))
    confidence = float(test.probabilities(2.0).max())
    assert words(mistakes.draw_misclassified(digits, test, 2.0, DIGITS))[1] == f"{confidence:.1%} sure"
    assert words(mistakes.draw_misclassified(digits, test, 0.1, DIGITS))[1] == "99.9% sure"


def test_many_errors_are_cut_to_the_most_confident_with_their_number_in_the_title(
    test_split: Samples, test: Evaluation
) -> None:
    blind = Evaluation(-test.logits, test.labels)
    figure = mistakes.draw_misclassified(test_split, blind, 1.0, DIGITS)
    wrong = int((~blind.right()).sum())
    assert len(figure.axes[0].images) == mistakes.MOST
    assert f"{wrong:,} of 1,000 test pictures; here the 40 with the highest confidence" in title(figure)
    assert render(figure)


def test_misclassified_digits_of_a_trained_network(test_split: Samples, test: Evaluation) -> None:
    figure = mistakes.draw_misclassified(test_split, test, 1.0, DIGITS)
    wrong = int((~test.right()).sum())
    assert 0 < wrong <= mistakes.MOST
    assert len(figure.axes[0].images) == wrong
    assert render(figure)


def test_uncertain_digits_show_two_classes_and_whether_the_first_is_right() -> None:
    digits, test = answers((3, 3, 0.99), (4, 9, 0.6), (2, 7, 0.9), (5, 5, 0.55))
    figure = mistakes.draw_least_sure(digits, test, 1.0, DIGITS)
    assert numbers_of(figure) == [3, 1, 2, 0]
    assert words(figure)[:4] == ["5: 55%  6: 45%", "is 5, right", "9: 60%  0: 40%", "is 4, wrong"]
    colours = [text.get_color() for text in figure.axes[0].texts]
    assert [same_color(colour, ORANGE) for colour in colours] == [False] * 2 + [True] * 4 + [False] * 2
    assert "2 of these 4 test pictures" in title(figure)


def test_reliability_is_drawn_before_and_after_calibration() -> None:
    # ten predictions with confidence 0.7, six of them correct; another temperature changes the confidence
    probabilities = torch.full((10, 10), 0.3 / 9)
    probabilities[:, 0] = 0.7
    test = Evaluation(probabilities.log(), torch.tensor([0] * 6 + [1] * 4))
    figure = mistakes.draw_reliability(test, 1.6)
    before, after, counts_before, _ = figure.axes
    confidence = float(test.probabilities(1.6).max())
    assert bars(before) == pytest.approx({10 / 15: 0.6})
    assert bars(after) == pytest.approx({int(confidence * 15) / 15: 0.6})
    assert max(bars(counts_before).values()) == 10
    assert f"{100 * test.calibration_error(1.6):.2f} percentage points, 10.00 before" in title(figure)
    assert "1.60" in after.get_title(loc="left")
    assert render(figure)


def test_network_without_errors_can_be_drawn() -> None:
    digits = Samples(torch.zeros(10, 28, 28, dtype=torch.uint8), torch.arange(10))
    assert render(mistakes.draw_confusion_matrix(PERFECT, DIGITS))
    figure = mistakes.draw_misclassified(digits, PERFECT, 1.0, DIGITS)
    assert "none of 10 test pictures" in title(figure)
    assert render(figure)
    assert render(mistakes.draw_least_sure(digits, PERFECT, 1.0, DIGITS))
    assert render(mistakes.draw_reliability(PERFECT, 1.0))


def test_bins_with_few_digits_are_pale() -> None:
    def shade(copies: int) -> float | None:
        figure = mistakes.draw_reliability(_repeated(copies), 1.0)
        alpha = figure.axes[0].patches[0].get_alpha()
        assert alpha is None or isinstance(alpha, float)
        return alpha

    assert shade(mistakes.FEW - 1) == 0.3
    assert shade(mistakes.FEW) == 1.0


def _repeated(copies: int) -> Evaluation:
    logits: Tensor = torch.zeros(copies, 10)
    logits[:, 3] = 2.0
    return Evaluation(logits, torch.full((copies,), 3))


def test_names_of_classes_stand_below_coloured_tiles() -> None:
    samples, test = answers((3, 3, 0.99), (4, 9, 0.6))
    named = [f"a rather long name {number}" for number in range(10)]
    colour = Samples(samples.images.unsqueeze(-1).expand(-1, 28, 28, 3), samples.labels)
    figure = mistakes.draw_misclassified(colour, test, 1.0, named)
    assert words(figure) == ["a rather lo… taken", "for a rather lo…", "60.0% sure"]
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (28, 28, 3)
    assert len(words(mistakes.draw_least_sure(colour, test, 1.0, named))) == 6
    assert render(figure)


@pytest.mark.parametrize(("classes", "numbers"), [(2, True), (47, True), (100, False)])
def test_confusion_matrix_has_room_for_every_name(classes: int, numbers: bool) -> None:
    labels = torch.arange(classes).repeat(3)
    names = [f"class {number}" for number in range(classes)]
    figure = mistakes.draw_confusion_matrix(Evaluation(torch.eye(classes)[labels], labels), names)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
    assert bool(words(figure)) == numbers
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 > below.y0 for above, below in itertools.pairwise(boxes))


def boxes(figure: Figure) -> list[Bbox]:
    """Return the extent of each text below the tiles, in pixels."""
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in figure.axes[0].texts]


def test_long_names_below_pictures_do_not_overlap() -> None:
    pictures, test = answers(*[(row % 10, (row + 1) % 10, 0.6) for row in range(16)])
    names = [f"Wide name {digit} of a class" for digit in DIGITS]
    for draw in (mistakes.draw_misclassified, mistakes.draw_least_sure):
        drawn = boxes(draw(pictures, test, 1.0, names))
        assert len(drawn) == 3 * 16
        overlapping = [(one, other) for one, other in itertools.combinations(drawn, 2) if one.overlaps(other)]
        assert not overlapping
