"""Headless Chromium from Debian, with a page that may neither log errors nor contact other hosts."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, expect, sync_playwright

from benchmarks.drawing.strokes import Point
from tests.serving.conftest import Service, service, start_service, swap, variant  # noqa: F401 - fixtures of the same names

TIMEOUT_MS = 60_000  # generous, because a loaded machine is slow
expect.set_options(timeout=TIMEOUT_MS)


def launch(playwright: Playwright) -> Browser:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("the page is tested in Debian's Chromium: apt-get install chromium")
    # Chromium's sandbox does not work for root, the user in containers; only our own page is opened.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=executable, args=options)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser per module: Playwright occupies the thread's event loop, which tests of other modules need."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Browser, service: Service) -> OpenPage:  # noqa: F811
    """A context manager that opens a page in a new window; fails on logged errors that do not contain `allowed`."""

    @contextmanager
    def opened(
        at: str = service.url, allowed: str | None = None, path: str = "/draw", **options: Any
    ) -> Iterator[Page]:
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        errors: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{at.rstrip('/')}{path}")
        if path == "/draw":
            expect(page.locator("#model")).to_contain_text("of the test pictures")
        yield page
        context.close()
        assert [text for text in errors if not (allowed and allowed in text)] == []
        assert [url for url in requests if not url.startswith((at, "data:", "blob:"))] == []

    return opened


@pytest.fixture
def page(open_page: OpenPage) -> Iterator[Page]:
    with open_page() as opened:
        yield opened


def draw(page: Page, lines: list[list[Point]]) -> None:
    """Draw with the mouse: each line is one stroke, in fractions of the paper's side."""
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
    """Wait for the answer to the current drawing and return its element."""
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    return page.locator("#digit")


def inked(page: Page, canvas: str) -> bool:
    """Return whether anything is painted on a canvas."""
    painted = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    return bool(page.locator(canvas).evaluate(painted))


def first_of_each_class(digits: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, int]]:
    images, labels = digits
    return [(images[np.flatnonzero(labels == label)[0]], label) for label in range(10)]
