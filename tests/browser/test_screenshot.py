"""The screenshot of `/draw` in the documentation."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from benchmarks.drawing.strokes import strokes
from tests.browser.conftest import OpenPage, digit_of, draw
from tests.processes import ROOT

pytestmark = pytest.mark.browser

Digits = tuple[np.ndarray, np.ndarray]


def test_screenshot_for_documentation(
    start_service: Callable[..., Any], model_file: Path, open_page: OpenPage, test_digits: Digits
) -> None:
    """Write the documentation's screenshot if DRAW_PICTURE names a model; always check its size."""
    shown = os.environ.get("DRAW_PICTURE")
    with start_service(SERVING_MODEL=Path(shown or model_file).resolve()) as service:
        service.wait_for(200)
        with open_page(at=service.url, viewport={"width": 1120, "height": 700}) as page:
            draw(page, strokes(test_digits[0][35]))
            expect(digit_of(page)).to_have_text(str(test_digits[1][35]))
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    assert picture.width == 1120
    content = io.BytesIO()
    picture.convert("RGB").save(content, "PNG", optimize=True)
    assert len(content.getvalue()) < 150_000
    if shown:
        (ROOT / "docs" / "pictures" / "draw.png").write_bytes(content.getvalue())
