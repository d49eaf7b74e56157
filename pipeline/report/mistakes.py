"""Pictures of errors, of uncertain predictions, and of calibration."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.data.dataset import Samples
from pipeline.evaluation import Evaluation
from pipeline.report.style import BLUE, GREY, ORANGE, canvas, panels, picture_tile, shortened

COLUMNS, FEWER_COLUMNS = 10, 7  # tiles per row: below digits, and below names, which need more room
MOST = 40  # tiles in a gallery
FEW = 20  # pictures in a bin below which its accuracy is mostly chance
SHORT = 12  # characters of a class name below a tile
MANY, MOST_COUNTED = 20, 60  # classes above which a confusion matrix is larger, and has no numbers in its cells


def draw_confusion_matrix(test: Evaluation, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix of the test pictures, with counts.

    Args:
        test: the network's answers on the test split.
        classes: names of the classes.
    """
    counts, n = test.confusion().numpy(), len(classes)
    wrong = int(counts.sum() - np.trace(counts))
    figure, (axes,) = panels(
        8.6 if n <= MANY else 10.8,
        1,
        1,
        f"Confusion matrix: {wrong:,} of {counts.sum():,} test pictures misclassified",
        "Counts off the diagonal are errors; the darkest cells are the pairs most often confused.",
    )
    shown = np.where(np.eye(n, dtype=bool) | (counts == 0), np.nan, counts)
    if wrong:
        axes.imshow(shown, cmap="Blues", norm=LogNorm(vmin=0.5, vmax=max(2.0, 2 * float(np.nanmax(shown)))))
    else:
        axes.imshow(np.full((n, n), np.nan), cmap="Blues")
    size = min(11.0, 240 / n)  # points: the cells shrink with the number of classes
    for row, column in np.argwhere(counts) if n <= MOST_COUNTED else ():
        axes.text(
            column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=size,
            color=GREY if row == column else "black", fontweight="normal" if row == column else "bold",
        )  # fmt: skip
    names = [shortened(name) for name in classes]
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(range(n), names, fontsize=max(size, 5), rotation=0 if max(map(len, names)) <= 2 else 90)
    axes.set_yticks(range(n), names, fontsize=max(size, 5))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def draw_misclassified(samples: Samples, test: Evaluation, temperature: float, classes: Sequence[str]) -> Figure:
    """Draw the misclassified test pictures with label, prediction and confidence, the most confident first."""
    confidence, answered = test.probabilities(temperature).max(dim=1)
    answers = answered.tolist()
    wrong = (~test.right()).nonzero().flatten()
    shown = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST]
    counted = f"{len(wrong):,} of {len(samples):,} test pictures"
    if not len(wrong):
        title, caption = f"Misclassified: none of {len(samples):,} test pictures", "Nothing to show."
    else:
        title = f"Misclassified: {counted}, the most confident first"
        caption = "Label, prediction and confidence. Some pictures are hard for people too, and some labels are wrong."
        if len(shown) < len(wrong):
            title = f"Misclassified: {counted}; here the {len(shown)} with the highest confidence"
    words = [
        (*_labels(classes[int(samples.labels[place])], classes[answers[place]]), _percent(confidence[place]), "black")
        for place in shown.tolist()
    ]
    return _gallery(title, caption, samples.images[shown], words)


def draw_least_sure(samples: Samples, test: Evaluation, temperature: float, classes: Sequence[str]) -> Figure:
    """Draw the test pictures with the lowest confidence, with their two most probable classes."""
    probabilities, answers = test.probabilities(temperature).topk(2, dim=1)
    shown = probabilities[:, 0].argsort(stable=True)[:MOST]
    right = int(test.right()[shown].sum())
    words = []
    for place in shown.tolist():
        first, second = (
            f"{shortened(classes[answer], SHORT)}: {share:.0%}"
            for answer, share in zip(answers[place].tolist(), probabilities[place].tolist(), strict=True)
        )
        label = int(samples.labels[place])
        wrong = label != int(answers[place, 0])
        truth = f"is {shortened(classes[label], SHORT)}, {'wrong' if wrong else 'right'}"
        likeliest = (f"{first}  {second}",) if max(map(len, classes)) <= 2 else (first, second)
        words.append((*likeliest, truth, ORANGE if wrong else "black"))
    return _gallery(
        f"Lowest confidence: {right} of these {len(shown)} test pictures are still classified correctly",
        "The two most probable classes, and below them the label and whether the prediction is right.",
        samples.images[shown],
        words,
    )


def draw_reliability(test: Evaluation, temperature: float) -> Figure:
    """Draw reliability diagrams before and after calibration: accuracy against confidence on the test pictures.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), figure 4.
    """
    before, after = test.calibration_error(), test.calibration_error(temperature)
    figure, axes = panels(
        6.2,
        2,
        2,
        f"Calibration error: {100 * after:.2f} percentage points, {100 * before:.2f} before calibration",
        f"On the dashed line, accuracy equals confidence. Pale bars: fewer than {FEW} pictures, mostly chance.",
        ratios=(3, 1),
    )
    for column, (name, at) in enumerate(
        (("Before calibration", 1.0), (f"After, temperature {temperature:.2f}", temperature))
    ):
        counts, _, accuracy = (values.numpy() for values in test.reliability(at))
        edges = np.linspace(0, 1, len(counts) + 1)
        upper, lower = axes[column], axes[2 + column]
        filled = counts > 0
        bars = upper.bar(
            edges[:-1][filled], accuracy[filled], 1 / len(counts), align="edge", color=BLUE, edgecolor="white"
        )
        for bar, count in zip(bars, counts[filled], strict=True):
            bar.set_alpha(0.3 if count < FEW else 1.0)
        upper.plot([0, 1], [0, 1], color=ORANGE, linestyle="--", linewidth=1.5, label="accuracy = confidence")
        upper.set(title=name, xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        upper.legend(frameon=False, loc="upper left")
        lower.bar(edges[:-1], counts, 1 / len(counts), align="edge", color=GREY, edgecolor="white")
        lower.set(xlim=(0, 1), yscale="log", ylim=(0.5, None), xlabel="confidence", ylabel="pictures")
        lower.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
        lower.minorticks_off()
    return figure


def _gallery(title: str, caption: str, images: Tensor, words: list[tuple[str, ...]]) -> Figure:
    """Draw pictures in rows, each above lines of text in a colour, the last of its words."""
    most_lines = max((len(each) - 1 for each in words), default=2)
    columns, size = (COLUMNS, 8.5) if most_lines <= 2 else (FEWER_COLUMNS, 8.0)
    step = 9.85 / columns  # inches from tile to tile
    side, height = step - 0.045, step + 0.055 + 0.16 * most_lines
    figure, axes = canvas(height * max(1, -(-len(images) // columns)), title, caption)
    for place, (image, (*lines, colour)) in enumerate(zip(images, words, strict=True)):
        left, top = 0.1 + step * (place % columns), height * (place // columns)
        picture_tile(axes, image.numpy(), left, top, side)
        for line, text in enumerate(lines):
            middle, below = left + side / 2, top + side + 0.09 + 0.16 * line
            axes.text(middle, below, text, fontsize=size, ha="center", va="center", color=colour)
    return figure


def _labels(label: str, answer: str) -> tuple[str, ...]:
    """The true and the predicted class, on one line if both are short."""
    if max(len(label), len(answer)) <= 2:
        return (f"{label} read as {answer}",)
    return f"{shortened(label, SHORT)} taken", f"for {shortened(answer, SHORT)}"


def _percent(share: Tensor) -> str:
    """Format a confidence; at most 99.9 %, since none is certain."""
    return f"{min(float(share), 0.999):.1%} sure"
