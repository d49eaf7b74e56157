"""The page for learners: its code runs, and its numbers are those that torch gives."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.networks import MNISTConvNet, count_parameters, normalise
from pipeline.recipes import RECIPES
from pipeline.report import illustrations
from pipeline.report.filters import seen_by_second_layer

PAGE = (Path(__file__).parents[1] / "docs" / "how-it-works.md").read_text()
PAGE = PAGE.replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{MINUS SIGN}", "-")


def run_code() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What the page's code leaves behind, and of each piece what it prints and what the page says that it prints."""
    names: dict[str, Any] = {}
    printed = []
    for code, text in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        printed.append((out.getvalue(), text))
    return names, printed


def test_code_prints_what_the_page_says() -> None:
    _, printed = run_code()
    assert len(printed) == 3
    for out, text in printed:
        assert out == text


def test_figures_show_the_numbers_of_the_code() -> None:
    names, _ = run_code()
    assert torch.equal(names["patch"], illustrations.PATCH.float())
    assert torch.equal(names["edge"], illustrations.EDGE.float())
    assert torch.equal(names["numbers"], illustrations.NUMBERS.float())
    assert torch.equal(names["answers"], illustrations.convolve(illustrations.PATCH, illustrations.EDGE).float())


def test_numbers_in_the_sentences_on_edges_are_those_of_the_filter() -> None:
    found = illustrations.convolve(illustrations.PATCH, illustrations.EDGE)
    assert f"3 x 255 x 1 = {found.max()}" in PAGE
    opposite = illustrations.convolve(illustrations.PATCH.flip(1), illustrations.EDGE)
    assert f"gives {opposite.min()} with" in PAGE
    assert not functional.relu(opposite).any()


def test_table_has_the_shapes_and_weights_of_the_network() -> None:
    network = MNISTConvNet()
    logits, maps = network.examine(normalise(torch.zeros(1, 28, 28)))
    expected = []
    for layer, convolution in zip(maps, network.convolutions, strict=True):
        expected += [(layer, count_parameters(convolution)), (functional.max_pool2d(layer, 2), None)]
    hidden = network.hidden(torch.zeros(1, network.hidden.in_features))
    expected += [(hidden, count_parameters(network.hidden)), (logits, count_parameters(network.output))]
    rows = re.findall(r"^\| (?:convolution|max|linear).* \| ([\d x]+) \| ([\d,]*) ?\|$", PAGE, re.MULTILINE)
    assert rows == [
        (" x ".join(map(str, out.shape[1:])), f"{weights:,}" if weights else "") for out, weights in expected
    ]
    assert f"two linear layers, {count_parameters(network):,} weights" in PAGE
    assert f"64 x 7 x 7 = {network.hidden.in_features:,} numbers" in PAGE
    assert f"{RECIPES['default'].batch_size} in `default`" in PAGE
    assert RECIPES["default"].network == RECIPES["chapter"].network


def test_second_layer_sees_as_much_of_the_picture_as_the_page_says() -> None:
    network = MNISTConvNet()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    pixels = torch.zeros(1, 1, 28, 28, requires_grad=True)
    _, maps = network.examine(pixels + torch.rand(28, 28))
    reached = torch.zeros(28, 28, dtype=torch.bool)
    for _ in range(200):  # pooling passes on one pixel of four: which, is left to chance
        (gradient,) = torch.autograd.grad(network.examine(pixels + torch.rand(28, 28))[1][1][0, 0, 7, 7], pixels)
        reached |= gradient[0, 0] != 0
    rows, columns = reached.any(dim=1).nonzero(), reached.any(dim=0).nonzero()
    height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert f"{height} x {width} pixels" in PAGE
    assert maps[1].shape[-1] == 14
    assert seen_by_second_layer(3, 3, 2) == (height, 14 - int(rows.min()))


@pytest.mark.parametrize("word", ["epoch", "batch", "recipe", "filter", "feature map", "temperature", "golden batch"])
def test_glossary_explains(word: str) -> None:
    assert re.search(rf"^\| {word} \| [A-Z].*\. \|$", PAGE, re.MULTILINE)


def test_every_picture_that_is_made_for_the_docs_is_shown_and_small() -> None:
    root = Path(__file__).parents[1]
    pages = "".join(path.read_text() for path in [root / "README.md", *(root / "docs").glob("*.md")])
    for name in (*illustrations.OF_A_RUN, "convolution", "pooling"):
        assert f"pictures/{name}.png)" in pages, name
        assert (root / "docs" / "pictures" / f"{name}.png").stat().st_size < 150_000, name
