"""The report of a run: real pictures of small networks, and the page that holds them."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.data.dataset import DataSet
from pipeline.evaluation import evaluate, fit_temperature
from pipeline.recipes import Architecture, ConvArchitecture, DenseArchitecture, Recipe, VGGArchitecture
from pipeline.report import page as report
from pipeline.tracking.runs import RecordedRun
from pipeline.training.loop import train
from tests.pipeline.training.test_loop import short
from tests.trained import QUICK

pytestmark = pytest.mark.slow

OF_FILTERS = {"filters", "filters-over-epochs", "second-layer-filters", "feature-maps"}


def drawn(recipe: Recipe, tenth: DataSet) -> list[report.Picture]:
    """The pictures of a short training on some digits."""
    trained = train(short(recipe, 2, tenth, 640))
    temperature = fit_temperature(evaluate(trained.network, tenth.validation))
    digits = tenth.read_test()
    return report.draw(recipe, trained, digits, evaluate(trained.network, digits), temperature)


@pytest.fixture(scope="module")
def pictures(tenth: DataSet) -> list[report.Picture]:
    return drawn(QUICK, tenth)


def test_all_pictures_are_drawn_in_order_each_1200_wide_with_words(pictures: list[report.Picture]) -> None:
    assert [picture.name for picture in pictures] == list(report.CAPTIONS)
    for picture in pictures:
        assert Image.open(io.BytesIO(picture.png)).width == 1200, picture.name
        assert re.fullmatch(r".{20,}[^.]\. .{20,}\.", picture.words), picture.words


def test_every_picture_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| `pictures/(.+)\.png` \|", page, re.MULTILINE) == list(report.CAPTIONS)


@pytest.mark.parametrize(
    ("network", "missing"),
    [
        (DenseArchitecture(), OF_FILTERS),
        (ConvArchitecture(filters=(4,)), {"second-layer-filters"}),
        (ConvArchitecture(filters=(4, 6, 8)), set()),
        (ConvArchitecture(filters=(4, 6), kernel_size=5), set()),
        (VGGArchitecture(blocks=((4,), (6, 8), (8,)), first_kernel_size=5), set()),
        (VGGArchitecture(blocks=((3, 4), (6,)), dropout=0.3), set()),
    ],
)
def test_every_kind_of_network_can_be_drawn(network: Architecture, missing: set[str], tenth: DataSet) -> None:
    names = {picture.name for picture in drawn(replace(QUICK, network=network), tenth)}
    assert names == set(report.CAPTIONS) - missing


class Page(HTMLParser):
    """The tags of a page with their attributes; asserts that each tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def written(pictures: list[report.Picture], **given: Any) -> str:
    told = {"title": "quick-1", "about": "A run.", "warning": "", "numbers": {"Seed": "1"}} | given
    return report.write(**told, pictures=pictures)


def test_page_holds_every_picture_with_its_words_and_a_sentence(pictures: list[report.Picture]) -> None:
    text = written(pictures)
    images = Page(text).all("img")
    assert [str(image["alt"]) for image in images] == [picture.words for picture in pictures]
    for image, picture in zip(images, pictures, strict=True):
        kind, data = str(image["src"]).split(",")
        assert kind == "data:image/png;base64"
        assert b64decode(data) == picture.png
    for heading, sentence in report.CAPTIONS.values():
        assert f">{heading}</h2>" in text
        assert f"<p>{sentence.replace(chr(39), '&#x27;')}</p>" in text


def test_page_needs_nothing_else_and_is_a_few_hundred_kilobytes(pictures: list[report.Picture]) -> None:
    text = written(pictures)
    page = Page(text)
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.found}
    assert not re.search(r"https?:|url\(|@import", text)
    assert len(text) < 800_000
    assert {"charset": "utf-8"} in page.all("meta")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert page.all("html") == [{"lang": "en"}]
    assert "prefers-color-scheme: dark" in text


def test_page_shows_what_it_is_told_as_text_not_as_html() -> None:
    text = written([], title="<b>mine</b>", about="a & b", warning="Only $5 of <it>", numbers={"<Seed>": "<1>"})
    for name in ("<b>", "<it>", "<Seed>", "<1>"):
        assert name not in text
    for shown in ("&lt;b&gt;mine&lt;/b&gt;", "a &amp; b", "Only $5 of &lt;it&gt;", "&lt;Seed&gt;", "&lt;1&gt;"):
        assert shown in text


def test_page_says_what_the_recipe_is_and_warns_only_where_there_is_something_to_say() -> None:
    assert "<p>A run.</p>" in written([])
    assert "<p" not in written([], about="")
    assert '<p class="warning">Trained on a tenth.</p>' in written([], warning="Trained on a tenth.")


def test_numbers_are_those_of_the_run_and_what_it_lacks_is_left_out() -> None:
    metrics = {"test_accuracy": 0.9953, "parameters": 421642.0, "test_calibration_error": 0.00213}
    tags = {"dataset": "mnist", "subset": "tenth", "data_source": "bundled tenth", "device": "cpu (two cores)"}
    run = RecordedRun("0" * 32, "quick-1", "FINISHED", {"seed": "7"}, metrics, tags)
    assert report.describe(run) == {
        "Test accuracy": "99.53%",
        "Calibration error": "0.0021",
        "Parameters": "421,642",
        "Seed": "7",
        "Data": "mnist, tenth, bundled tenth",
        "Device": "cpu (two cores)",
        "Run": "0" * 32,
    }
