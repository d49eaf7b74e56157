"""Debian's Chromium without a window, and a page in it that may not log an error nor ask anyone but its service."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, expect, sync_playwright

from benchmarks.drawing.strokes import Point
from tests.serving.conftest import Service, service, start_service, variant  # noqa: F401 - fixtures of the same names

PATIENCE_MS = 60_000  # a loaded machine is slow; what is late is not wrong
expect.set_options(timeout=PATIENCE_MS)


def launch(playwright: Playwright) -> Browser:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("the page is tested in Debian's Chromium: apt-get install chromium")
    # Its sandbox is not for root, who runs in containers; nothing but our own page is opened.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=executable, args=options)


@pytest.fixture(
    scope="module"
)  # not for longer: its event loop is this thread's, and other tests have one of their own
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Browser, service: Service) -> OpenPage:  # noqa: F811
    """A context manager: `/draw` of a service in a new window; nothing may be logged but what `allowed` is part of."""

    @contextmanager
    def opened(at: str = service.url, allowed: str | None = None, **options: Any) -> Iterator[Page]:
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{at.rstrip('/')}/draw")
        expect(page.locator("#model")).to_contain_text("of the test digits")
        yield page
        context.close()
        assert [text for text in said if not (allowed and allowed in text)] == []
        assert [url for url in asked if not url.startswith((at, "data:", "blob:"))] == []

    return opened


@pytest.fixture
def page(open_page: OpenPage) -> Iterator[Page]:
    with open_page() as opened:
        yield opened


def draw(page: Page, lines: list[list[Point]]) -> None:
    """Draw with the mouse: each line is one stroke, in shares of the paper's side."""
    box = page.locator("#paper").bounding_box()
    assert box
    for line in lines:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()


def digit_of(page: Page) -> Locator:
    """What the page shows as the answer, once it is the answer to what is drawn."""
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    return page.locator("#digit")


def inked(page: Page, canvas: str) -> bool:
    """Whether anything is painted on a canvas."""
    painted = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    return bool(page.locator(canvas).evaluate(painted))


def first_of_each_class(digits: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, int]]:
    images, labels = digits
    return [(images[np.flatnonzero(labels == label)[0]], label) for label in range(10)]
