"""The front page and the API page in a real browser, with a real service behind them.

`open_page` fails on console errors, which include violations of the policy, and on requests to other hosts.
"""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.serving.conftest import Service, Swap

pytestmark = pytest.mark.browser


def rows(page: Page) -> dict[str, str]:
    """The table of the model in service."""
    expect(page.locator("#state")).not_to_have_text("Loading…")
    names, values = page.locator("#model dt").all_inner_texts(), page.locator("#model dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


def test_front_page_shows_the_model_in_service(open_page: OpenPage, service: Service) -> None:
    about = service.client.get("/model").json()
    with open_page(path="/") as page:
        shown = rows(page)
        expect(page.locator("#state")).to_have_text("Ready.")
    assert shown.pop("In service since")
    assert shown == {
        "Recipe": "quick",
        "Version": about["version"],
        "Test accuracy": f"{100 * about['test_accuracy']:.2f} %",
        "Validation accuracy": f"{100 * about['validation_accuracy']:.2f} %",
        "Parameters": f"{about['parameters']:,}",
        "Training data": "the bundled tenth of mnist",
        "Classes": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "Pictures": "28 \N{MULTIPLICATION SIGN} 28 pixels",
    }


def test_links_of_the_front_page_answer(open_page: OpenPage) -> None:
    with open_page(path="/") as page:
        links = page.locator("a").evaluate_all("links => links.map((link) => link.href)")
        assert len(links) >= 7
        for link in links:
            assert page.request.get(link).ok, link


def test_front_page_follows_a_swap_and_reports_a_stopped_service(
    start_service: Callable[..., Any], swap: Swap, open_page: OpenPage
) -> None:
    with start_service(SERVING_MODEL=swap.served, SERVING_POLL_SECONDS=0.2) as service:
        service.wait_for(200)
        with open_page(at=service.url, path="/", allowed="ERR_") as page:
            assert rows(page)["Recipe"] == "quick"
            swap.put(1)
            expect(page.locator("#model")).to_contain_text("other")
            service.process.terminate()
            service.process.wait(60)
            expect(page.locator("#state")).to_have_text("The service does not answer.")
            expect(page.locator("#model")).to_be_hidden()


def test_front_page_without_a_model_shows_the_reason(start_service: Callable[..., Any], open_page: OpenPage) -> None:
    with start_service(SERVING_MODEL="/missing/model.onnx") as service, open_page(at=service.url, path="/") as page:
        expect(page.locator("#state")).to_contain_text("No model is in service: ")
        expect(page.locator("#state")).to_contain_text("model.onnx")
        assert Axe().run(page).response["violations"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(open_page: OpenPage, scheme: str) -> None:
    with open_page(path="/", color_scheme=scheme) as page:
        assert rows(page)
        assert Axe().run(page).response["violations"] == []


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("width", [320, 1200])
def test_page_fits_window_width(open_page: OpenPage, path: str, width: int) -> None:
    with open_page(path=path, viewport={"width": width, "height": 740}) as page:
        expect(page.locator("#model dd, .opblock").first).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_api_page_shows_every_route_and_sends_a_request(open_page: OpenPage, service: Service) -> None:
    paths = service.client.get("/docs.json").json()["paths"]
    with open_page(path="/docs", viewport={"width": 1200, "height": 1500}) as page:
        expect(page).to_have_title("API of digits")
        expect(page.locator(".opblock")).to_have_count(len(paths))
        for block in page.locator(".opblock-summary-control").all():
            block.click()  # shows its examples and schemas
        expect(page.locator(".opblock.is-open")).to_have_count(len(paths))
        predict = page.locator(".opblock", has=page.locator("[data-path='/predict']"))
        predict.get_by_role("button", name="Try it out").click()
        predict.get_by_role("button", name="Execute").click()
        expect(predict.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")
        expect(predict.locator(".live-responses-table")).to_contain_text('"digit": 7')
