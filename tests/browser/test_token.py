"""The pages of a service that needs tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, draw

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-this-test"


def test_token_is_entered_once_and_stays_in_the_tab(
    start_service: Callable[..., Any], model_file: Path, open_page: OpenPage, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    with start_service(SERVING_MODEL=model_file, SERVING_TOKEN_FILE=tmp_path / "tokens") as service:
        service.wait_for(200)
        with open_page(at=service.url, path="/", allowed="401") as page:
            expect(page.locator("#state")).to_contain_text("needs a token")
            page.get_by_label("Access token").fill("a-token-of-another-test")
            page.get_by_role("button", name="Use").click()
            expect(page.locator("#state")).to_contain_text("not valid")
            page.get_by_label("Access token").fill(TOKEN)
            page.get_by_label("Access token").press("Enter")
            expect(page.locator("#state")).to_have_text("Ready.")
            page.goto(f"{service.url}/draw")
            expect(page.locator("#model")).to_contain_text("of the test pictures")
            draw(page, [[(0.5, 0.2), (0.5, 0.8)]])
            expect(page.locator("#digit")).to_have_text("1")
            expect(page.get_by_label("Access token")).to_have_count(0)
        with open_page(at=service.url, path="/", allowed="401") as page:
            expect(page.get_by_label("Access token")).to_be_visible()
        assert TOKEN not in service.log.read_text()
