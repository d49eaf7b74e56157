"""The page for learners: its code runs, its numbers are those that torch computes, and its commands are valid."""

import contextlib
import io
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.__main__ import COMMANDS
from pipeline.arguments import read
from pipeline.data.catalogue import CATALOGUE
from pipeline.data.dataset import MNIST
from pipeline.networks import MNISTConvNet, build, count_macs, count_parameters, normalise
from pipeline.recipes import RECIPES, ConvArchitecture, Recipe, find
from pipeline.report import illustrations, lesson_basics, lesson_recipe
from pipeline.report.filters import receptive_field
from pipeline.settings import CompareSettings, TrainSettings
from pipeline.training.schedule import learning_rates

ROOT = Path(__file__).parents[1]
RAW = (ROOT / "docs" / "how-it-works.md").read_text()
PAGE = RAW.replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{MINUS SIGN}", "-")
PROSE = " ".join(PAGE.split())
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
EXERCISES = re.findall(r"^### \d+\. (.*?)\n(.*?)(?=^### |\Z)", SECTIONS["Exercises"], re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\.venv/bin/python -m pipeline (.*)$", re.MULTILINE)


def run_code() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The names that the page's code defines; of each block with an output, what it prints and what the page shows."""
    names: dict[str, Any] = {}
    printed = []
    for code, text in re.findall(r"```python\n((?:(?!```).)*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        printed.append((out.getvalue(), text))
    return names, printed


def write_recipes(folder: Path) -> list[str]:
    """Write the page's recipes into a folder; returns their names."""
    files = re.findall(r"```toml\n# (\S+\.toml)\n(.*?)```", PAGE, re.DOTALL)
    assert len(files) == PAGE.count("```toml")
    for name, text in files:
        (folder / name).write_text(text)
    return [name for name, _ in files]


def training_loop() -> str:
    loops = re.findall(r"```python\n(.*?)```", SECTIONS["A training loop in ten lines"], re.DOTALL)
    assert len(loops) == 1
    return str(loops[0])


def test_code_prints_what_the_page_shows() -> None:
    _, printed = run_code()
    assert len(printed) == 7
    for out, text in printed:
        assert out == text


def test_every_code_block_is_run() -> None:
    assert PAGE.count("```python") == len(run_code()[1]) + 1


def test_pictures_show_the_numbers_of_the_code() -> None:
    names, _ = run_code()
    assert torch.equal(names["patch"], illustrations.PATCH.float())
    assert torch.equal(names["edge"], illustrations.EDGE.float())
    assert torch.equal(names["numbers"], illustrations.NUMBERS.float())
    assert torch.equal(names["logits"], lesson_basics.LOGITS)
    assert torch.equal(names["outputs"], illustrations.convolve(illustrations.PATCH, illustrations.EDGE).float())


@pytest.mark.slow
def test_training_loop_has_ten_lines_and_reaches_the_stated_accuracy_of_its_first_epoch() -> None:
    code = training_loop()
    loop = code[code.index("for epoch") :].splitlines()
    assert len(loop) == 10
    assert loop[0] == "for epoch in range(3):"
    stated = re.search(r"After one epoch it reads more than (\d+) % of the validation digits right", PROSE)
    assert stated
    names: dict[str, Any] = {}
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code.replace("range(3)", "range(1)"), names)
    assert time.process_time() - started < 2 * 60 / 3  # a third of a minute on two cores
    assert names["accuracy"] > int(stated[1]) / 100
    assert count_parameters(names["network"]) == count_parameters(MNISTConvNet(MNIST))
    assert re.fullmatch(r"epoch 1: \d\d\.\d% of the validation digits right\n", out.getvalue())


def test_numbers_in_the_sentences_on_edges_are_those_of_the_filter() -> None:
    found = illustrations.convolve(illustrations.PATCH, illustrations.EDGE)
    assert f"3 x 255 x 1 = {found.max()}" in PAGE
    opposite = illustrations.convolve(illustrations.PATCH.flip(1), illustrations.EDGE)
    assert f"the same filter gives {opposite.min()}." in PROSE
    assert not functional.relu(opposite).any()


def test_table_has_the_shapes_and_weights_of_the_network() -> None:
    network = MNISTConvNet(MNIST)
    logits, maps = network.examine(normalise(torch.zeros(1, 28, 28), MNIST))
    expected = []
    for layer, convolution in zip(maps, network.convolutions, strict=True):
        expected += [(layer, count_parameters(convolution)), (functional.max_pool2d(layer, 2), None)]
    hidden = network.hidden(torch.zeros(1, network.hidden.in_features))
    expected += [(hidden, count_parameters(network.hidden)), (logits, count_parameters(network.output))]
    rows = re.findall(r"^\| (?:convolution|max|linear).* \| ([\d x]+) \| ([\d,]*) ?\|$", PAGE, re.MULTILINE)
    assert rows == [
        (" x ".join(map(str, out.shape[1:])), f"{weights:,}" if weights else "") for out, weights in expected
    ]
    assert "If the run reads less than 98 %" in PROSE
    assert CATALOGUE["mnist"].minimum_accuracy == 0.98
    assert f"two linear layers, with {count_parameters(network):,} weights" in PROSE
    assert f"64 x 7 x 7 = {network.hidden.in_features:,} numbers" in PAGE
    assert f"{RECIPES['default'].batch_size} in `default`" in PAGE
    assert RECIPES["default"].network == RECIPES["chapter"].network


def test_table_counts_weights_and_biases_of_each_layer() -> None:
    network = MNISTConvNet(MNIST)
    layers = [*network.convolutions, network.hidden, network.output]
    rows = re.findall(r"^\| (?:1st|2nd) .*: (.*) = ([\d,]+) \| (\d+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(layers)
    totals = [0, 0]
    for layer, (product, *shown) in zip(layers, rows, strict=True):
        weights, biases = layer.get_parameter("weight").numel(), layer.get_parameter("bias").numel()
        assert shown == [f"{weights:,}", f"{biases}", f"{weights + biases:,}"]
        factors = [int(factor.replace(",", "")) for factor in product.split(" x ")]
        assert torch.tensor(factors).prod() == weights
        totals = [totals[0] + weights, totals[1] + biases]
    assert f"| all | {totals[0]:,} | {totals[1]} | {sum(totals):,} |" in PAGE
    assert sum(totals) == count_parameters(network)


def test_second_layer_covers_as_much_of_the_picture_as_the_page_states() -> None:
    network = MNISTConvNet(MNIST)
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
    assert receptive_field(3, 3, 2) == (height, 14 - int(rows.min()))


def test_numbers_on_the_loss_are_computed() -> None:
    guess = functional.cross_entropy(torch.zeros(1, 10), torch.tensor([0])).item()
    assert f"Its loss is {guess:.2f}." in PAGE
    assert f"stays near {guess:.2f}" in PAGE
    share = RECIPES["default"].label_smoothing / 10
    right = 1 - RECIPES["default"].label_smoothing + share
    assert f"target for the right digit is {right:.3f} and for each other digit {share:.3f}" in PROSE
    assert f"Beyond {right:.1%}".replace("%", " %") in PROSE


def test_numbers_on_the_learning_rate_are_those_of_the_recipes() -> None:
    steps = -(-lesson_recipe.DIGITS // RECIPES["default"].batch_size) * RECIPES["default"].epochs
    peak = max(learning_rates(RECIPES["default"], steps))
    assert f"The learning rate of the {steps:,} steps of `default`: up to {peak:.3f} within a tenth" in PROSE
    assert RECIPES["default"].warm_up == 0.1
    assert f"It climbs to {peak:.3f}, four times the chapter's" in PROSE
    assert peak == pytest.approx(4 * RECIPES["chapter"].learning_rate)
    assert f"{RECIPES['chapter'].learning_rate:g} in the recipe `chapter`" in PROSE
    assert f"over {lesson_recipe.AVERAGED_STEPS} steps" in PROSE
    assert lesson_basics.STEPS_BEFORE == 6
    assert lesson_basics.DESCENT_STEPS == 8
    assert "after six steps of training" in PROSE
    assert "after eight steps" in PROSE


def test_numbers_in_the_exercises_are_those_of_the_networks(tmp_path: Path) -> None:
    exercise = {title: " ".join(text.split()) for title, text in EXERCISES}
    chapter, third = (build(RECIPES[name].network, MNIST) for name in ("chapter", "third-block"))
    counts = f"{count_parameters(third):,} instead of {count_parameters(chapter):,}"
    assert counts in exercise["A third block"]
    assert count_macs(third) > count_macs(chapter)
    assert third.get_submodule("hidden").in_features == 128 * 3 * 3
    larger = build(RECIPES["kernel-5x5"].network, MNIST).convolutions[0]
    assert f"32 x 5 x 5 + 32 = {count_parameters(larger)}" in exercise["Larger filters"]
    assert RECIPES["dropout"].network == ConvArchitecture(dropout=0.5)
    dense = count_parameters(build(RECIPES["dense"].network, MNIST))
    assert f"{dense:,}, a quarter of" in exercise["No convolution"]
    assert dense / count_parameters(chapter) == pytest.approx(0.25, abs=0.01)
    digits = len(lesson_basics.bundled_digits().train)
    large = find(str(tmp_path / next(name for name in write_recipes(tmp_path) if name.startswith("large"))))
    small_steps, large_steps = (-(-digits // size) for size in (RECIPES["chapter"].batch_size, large.batch_size))
    assert (
        f"{digits:,} digits are {small_steps} batches of {RECIPES['chapter'].batch_size}, "
        f"but {large_steps} batches of {large.batch_size}"
    ) in exercise["Large batches"]


def test_recipes_of_the_exercises_are_valid_and_change_what_their_exercise_is_about(tmp_path: Path) -> None:
    recipes = {name: find(str(tmp_path / name)) for name in write_recipes(tmp_path)}
    chapter = RECIPES["chapter"]
    assert recipes["hot.toml"].learning_rate > 10 * chapter.learning_rate
    assert recipes["cold.toml"].learning_rate < chapter.learning_rate / 10
    assert recipes["large-batch.toml"].batch_size > 10 * chapter.batch_size
    assert recipes["bent.toml"].augmentation == RECIPES["default"].augmentation
    assert recipes["straight.toml"].augmentation == Recipe("plain").augmentation
    assert recipes["bent.toml"].epochs == recipes["straight.toml"].epochs == 20
    assert recipes["cycle.toml"].one_cycle


@pytest.mark.parametrize("title", [title for title, _ in EXERCISES])
def test_exercise_has_a_valid_command_and_what_to_look_for(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = dict(EXERCISES)[title]
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert re.search(r"\blook at\b", text, re.IGNORECASE)
    commands = COMMAND.findall(text)
    assert commands or ".venv/bin/python loop.py" in text
    for line in commands:
        command, *arguments = shlex.split(line)
        settings = read(COMMANDS[command][0], arguments, command)
        assert isinstance(settings, CompareSettings | TrainSettings)
        assert settings.subset == "tenth"
        names = settings.recipes if isinstance(settings, CompareSettings) else (settings.recipe,)
        own = [name for name in names if name.endswith(".toml")]
        assert all(f"# {name}" in text for name in own), own


@pytest.mark.slow
def test_changes_to_the_loop_can_be_made_and_still_run() -> None:
    changes = re.findall(r"`([^`]+)`", dict(EXERCISES)["Break the loop"].split("```")[0])
    code = training_loop().replace("range(3)", "range(1)").replace(".split(32)", ".split(32)[:2]")
    assert changes[1:4] == ["optimizer.zero_grad()", "nn.ReLU()", "/ 255"]
    assert code.count("nn.ReLU(),") == 3
    for old, new in (
        ("optimizer.zero_grad()", "pass"), ("nn.ReLU(),", ""), ("/ 255", "/ 1"), ("torch.randperm", "torch.arange"),
    ):  # fmt: skip
        assert old in code
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code.replace(old, new), {})
        assert out.getvalue().startswith("epoch 1: ")


def test_exercises_cover_the_chapters_three() -> None:
    commands = " ".join(COMMAND.findall(SECTIONS["Exercises"]))
    assert {"third-block", "kernel-5x5", "dropout", "dense"} <= set(commands.split())


def test_each_section_ends_with_what_to_take_away() -> None:
    assert len(SECTIONS) >= 15
    for title, text in SECTIONS.items():
        if title not in ("Exercises", "Glossary"):
            last = text.strip().split("\n\n")[-1]
            assert re.fullmatch(r"\*\*Take away:\*\* [^.]+\.", last), title


def test_lines_fit_in_100_columns() -> None:
    assert [line for line in RAW.splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("word", ["epoch", "batch", "recipe", "filter", "feature map", "temperature", "golden batch"])
def test_glossary_explains(word: str) -> None:
    assert re.search(rf"^\| {word} \| [A-Z].*\. \|$", PAGE, re.MULTILINE)


def test_glossary_has_every_term_that_the_page_introduces() -> None:
    for term in ("bias", "gradient", "learning rate", "logit", "loss", "weight"):
        assert re.search(rf"\*\*{term}s?\*\*", PAGE), term
        assert re.search(rf"^\| {term} \| [A-Z].*\. \|$", PAGE, re.MULTILINE), term


def test_every_picture_that_is_made_for_the_docs_is_shown_and_small() -> None:
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for name in (*illustrations.OF_A_RUN, *illustrations.LESSON):
        assert f"pictures/{name}.png)" in pages, name
        assert (ROOT / "docs" / "pictures" / f"{name}.png").stat().st_size < 150_000, name
    for name in illustrations.LESSON:
        assert f"pictures/{name}.png)" in PAGE, name
        assert (ROOT / "docs" / "pictures" / f"{name}.png").stat().st_size < 60_000, name
