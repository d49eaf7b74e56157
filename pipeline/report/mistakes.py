"""Pictures of errors, of uncertain predictions, and of calibration."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.data.dataset import Digits
from pipeline.evaluation import Evaluation
from pipeline.report.style import BLUE, GREY, ORANGE, canvas, panels, tile

COLUMNS, MOST = 10, 40  # digits per row and per picture
FEW = 20  # digits in a bin below which its accuracy is mostly chance


def draw_confusion_matrix(test: Evaluation) -> Figure:
    """Draw the confusion matrix of the test digits, with counts."""
    counts = test.confusion().numpy()
    wrong = int(counts.sum() - np.trace(counts))
    figure, (axes,) = panels(
        8.6,
        1,
        1,
        f"Confusion matrix: {wrong:,} of {counts.sum():,} test digits misclassified",
        "Counts off the diagonal are errors; the darkest cells are the pairs of digits most often confused.",
    )
    shown = np.where(np.eye(10, dtype=bool) | (counts == 0), np.nan, counts)
    if wrong:
        axes.imshow(shown, cmap="Blues", norm=LogNorm(vmin=0.5, vmax=max(2.0, 2 * float(np.nanmax(shown)))))
    else:
        axes.imshow(np.full((10, 10), np.nan), cmap="Blues")
    for row in range(10):
        for column in range(10):
            if counts[row, column]:
                axes.text(
                    column, row, f"{counts[row, column]}", ha="center", va="center",
                    color=GREY if row == column else "black", fontweight="normal" if row == column else "bold",
                )  # fmt: skip
    axes.set(xticks=range(10), yticks=range(10), xlabel="predicted digit", ylabel="true digit")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def draw_misread(digits: Digits, test: Evaluation, temperature: float) -> Figure:
    """Draw the misclassified test digits with label, prediction and calibrated confidence, most confident first."""
    confidence, answers = test.probabilities(temperature).max(dim=1)
    wrong = (~test.right()).nonzero().flatten()
    shown = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST]
    counted = f"{len(wrong):,} of {len(digits):,} test digits"
    if not len(wrong):
        title, caption = f"Misclassified: none of {len(digits):,} test digits", "Nothing to show."
    else:
        title = f"Misclassified: {counted}, the most confident first"
        caption = "Label, prediction and confidence. Some digits are hard for people too, and some labels are wrong."
        if len(shown) < len(wrong):
            title = f"Misclassified: {counted}; here the {len(shown)} with the highest confidence"
    words = [
        (f"{digits.labels[place]} read as {answers[place]}", _percent(confidence[place]), "black")
        for place in shown.tolist()
    ]
    return _gallery(title, caption, digits.images[shown], words)


def draw_least_sure(digits: Digits, test: Evaluation, temperature: float) -> Figure:
    """Draw the test digits with the lowest confidence, with their two most probable classes."""
    probabilities, answers = test.probabilities(temperature).topk(2, dim=1)
    shown = probabilities[:, 0].argsort(stable=True)[:MOST]
    right = int(test.right()[shown].sum())
    words = []
    for place in shown.tolist():
        likeliest = "  ".join(
            f"{answer}: {share:.0%}"
            for answer, share in zip(answers[place].tolist(), probabilities[place].tolist(), strict=True)
        )
        label = int(digits.labels[place])
        wrong = label != int(answers[place, 0])
        words.append((likeliest, f"a {label}, {'wrong' if wrong else 'right'}", ORANGE if wrong else "black"))
    return _gallery(
        f"Lowest confidence: {right} of these {len(shown)} test digits are still classified correctly",
        "The two most probable classes, and below them the label and whether the prediction is right.",
        digits.images[shown],
        words,
    )


def draw_reliability(test: Evaluation, temperature: float) -> Figure:
    """Draw reliability diagrams before and after calibration: accuracy against confidence on the test digits.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), figure 4.
    """
    before, after = test.calibration_error(), test.calibration_error(temperature)
    figure, axes = panels(
        6.2,
        2,
        2,
        f"Calibration error: {100 * after:.2f} percentage points, {100 * before:.2f} before calibration",
        f"On the dashed line, accuracy equals confidence. Pale bars: fewer than {FEW} digits, mostly chance.",
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
        lower.set(xlim=(0, 1), yscale="log", ylim=(0.5, None), xlabel="confidence", ylabel="digits")
        lower.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
        lower.minorticks_off()
    return figure


def _gallery(title: str, caption: str, images: Tensor, words: list[tuple[str, str, str]]) -> Figure:
    """Draw digits in rows, each above two lines of text in a colour."""
    rows = max(1, -(-len(images) // COLUMNS))
    figure, axes = canvas(1.36 * rows, title, caption)
    for place, (image, (above, below, colour)) in enumerate(zip(images, words, strict=True)):
        left, top = 0.1 + 0.985 * (place % COLUMNS), 1.36 * (place // COLUMNS)
        tile(axes, image.numpy(), left, top, 0.94, cmap="gray", vmin=0, vmax=255)
        for line, text in enumerate((above, below)):
            axes.text(left + 0.47, top + 1.03 + 0.16 * line, text, fontsize=8.5, ha="center", va="center", color=colour)
    return figure


def _percent(share: Tensor) -> str:
    """Format a confidence; at most 99.9 %, since none is certain."""
    return f"{min(float(share), 0.999):.1%} sure"
