"""The page `/draw` in a real browser, with a real service behind it."""

import base64
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from PIL import Image
from playwright.sync_api import Page, Route, expect

from benchmarks.drawing.strokes import Point, strokes
from tests.browser.conftest import OpenPage, digit_of, draw, first_of_each_class, inked
from tests.processes import wait_until
from tests.serving.decoding.test_pictures import encoded

pytestmark = pytest.mark.browser

Digits = tuple[np.ndarray, np.ndarray]
Lines = list[list[Point]]
LINE = [[(0.5, 0.2), (0.5, 0.4), (0.5, 0.6), (0.5, 0.8)]]
NOTHING = "\N{EN DASH}"
ANSWER_TO = re.compile(r"^(It is a|Not sure, perhaps a) \d, ")


def picture_of(digit: np.ndarray, kind: str = "PNG") -> bytes:
    return encoded(Image.fromarray(255 - digit).resize((300, 300)), kind)


@pytest.fixture(scope="session")
def seven(test_digits: Digits) -> Lines:
    """A seven in one stroke that the model is sure of."""
    images, labels = test_digits
    assert labels[30] == 7
    return strokes(images[30])


def test_drawn_mnist_digits_are_recognised(page: Page, test_digits: Digits) -> None:
    for digit, label in first_of_each_class(test_digits):
        draw(page, strokes(digit))
        expect(digit_of(page)).to_have_text(re.compile(rf"^{label}\??$"))
        expect(page.locator("#spoken")).to_have_text(ANSWER_TO)
        expect(page.locator("#bars .best")).to_contain_text(str(label))
        for canvas in ("#seen", "#saliency", "#layer-conv1-32x28x28", "#layer-conv2-64x14x14"):
            assert inked(page, canvas), canvas
        page.keyboard.press("Delete")
        expect(digit_of(page)).to_have_text(NOTHING)


def test_network_input_on_page_matches_service(page: Page, seven: Lines) -> None:
    with page.expect_response("**/explain") as answered:
        draw(page, seven)
        expect(digit_of(page)).to_have_text("7")
    assert answered.value.status == 200
    seen = page.locator("#seen").evaluate(
        "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 28, 28).data).filter((_, at) => at % 4 == 0)"
    )
    shades = np.array(seen).reshape(28, 28)  # light theme: ink is dark
    rows, columns = np.flatnonzero((shades < 128).any(1)), np.flatnonzero((shades < 128).any(0))
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 in (18, 19, 20)


def test_undo_removes_last_stroke_and_clear_removes_all(page: Page, seven: Lines) -> None:
    across = [(0.2, 0.8), (0.8, 0.8)]
    undos: list[Callable[[], None]] = [
        page.get_by_role("button", name="Undo").click,
        partial(page.keyboard.press, "Control+z"),
    ]
    for undo in undos:
        draw(page, seven)
        expect(digit_of(page)).to_have_text("7")
        before = page.locator("#bars").inner_text()
        draw(page, [across])
        expect(page.locator("#bars")).not_to_have_text(before, use_inner_text=True)
        digit_of(page)
        undo()
        expect(digit_of(page)).to_have_text("7")
        expect(page.locator("#bars")).to_have_text(before, use_inner_text=True)
        page.get_by_role("button", name="Clear").click()
        expect(digit_of(page)).to_have_text(NOTHING)
        assert not inked(page, "#paper")
        undo()  # restores what Clear removed
        expect(digit_of(page)).to_have_text("7")
        page.keyboard.press("Delete")
        expect(digit_of(page)).to_have_text(NOTHING)


def opened(page: Page, how: str, content: bytes) -> None:
    if how == "chosen":
        page.locator("#file").set_input_files({"name": "digit.png", "mimeType": "image/png", "buffer": content})
        return
    page.evaluate(
        """([how, text]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            data.items.add(new File([bytes], "digit.png", { type: "image/png" }));
            const event = how === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [how, base64.b64encode(content).decode()],
    )


@pytest.mark.parametrize("how", ["chosen", "drop", "paste"])
def test_picture_is_recognised_and_a_stroke_begins_a_new_sheet(page: Page, test_digits: Digits, how: str) -> None:
    for index in (0, 1):
        opened(page, how, picture_of(test_digits[0][index]))
        expect(digit_of(page)).to_have_text(str(test_digits[1][index]))
        assert inked(page, "#paper")
    draw(page, strokes(test_digits[0][3]))
    expect(digit_of(page)).to_have_text(str(test_digits[1][3]))


def test_unreadable_file_keeps_drawing_and_answer(page: Page, seven: Lines) -> None:
    draw(page, seven)
    expect(digit_of(page)).to_have_text("7")
    drawing = page.locator("#paper").evaluate("canvas => canvas.toDataURL()")
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"a text"})
    expect(page.locator("#trouble")).to_have_text(
        "a.png is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file."
    )
    assert page.locator("#paper").evaluate("canvas => canvas.toDataURL()") == drawing
    expect(digit_of(page)).to_have_text("7")
    expect(page.locator("body")).not_to_have_class(re.compile("stale"))
    draw(page, seven)
    expect(digit_of(page)).to_have_text("7")
    expect(page.locator("#trouble")).to_be_empty()


def test_refused_picture_shows_the_service_error_and_clears_the_answer(
    open_page: OpenPage, seven: Lines, test_digits: Digits
) -> None:
    with open_page(allowed="415") as page:
        draw(page, seven)
        expect(digit_of(page)).to_have_text("7")
        opened(page, "chosen", picture_of(test_digits[0][0], "GIF"))  # readable for the browser, not for the service
        expect(page.locator("#trouble")).to_contain_text("picture 1 of 1 is not a picture that can be read")
        expect(digit_of(page)).to_have_text(NOTHING)
        expect(page.locator("#confidence")).to_have_text("No answer for this picture.")
        expect(page.locator("body")).not_to_have_class(re.compile("stale"))
        assert inked(page, "#paper")
        assert not inked(page, "#seen")
        page.get_by_role("button", name="Undo").click()
        expect(digit_of(page)).to_have_text("7")
        expect(page.locator("#trouble")).to_be_empty()


@pytest.mark.parametrize("size", [(360, 740), (1200, 800)])
def test_messages_do_not_move_the_paper(open_page: OpenPage, size: tuple[int, int]) -> None:
    with open_page(viewport={"width": size[0], "height": size[1]}) as page:
        place = page.locator("#paper").bounding_box()
        assert place
        opened(page, "chosen", b"a text")
        expect(page.locator("#trouble")).to_contain_text("is not a picture that can be read")
        assert page.locator("#paper").bounding_box() == place
        message = page.locator("#trouble").bounding_box()
        assert message
        assert message["y"] >= place["y"] + place["height"]  # the paper stays visible
        assert message["y"] + message["height"] <= size[1]


def test_keyboard_reaches_all_controls_and_draws(page: Page) -> None:
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
        ring = "element => getComputedStyle(element.closest('label') ?? element).outlineStyle"
        assert page.locator(":focus").evaluate(ring) == "solid", reached
    assert reached == ["paper", "undo", "clear", "file", "camera", "summary"]
    page.keyboard.press("Enter")
    expect(page.get_by_text("with the keyboard alone")).to_be_visible()
    page.locator("#paper").focus()
    page.keyboard.press("Space")
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(digit_of(page)).to_have_text("1")
    expect(page.locator("#spoken")).to_have_text(ANSWER_TO)


def test_second_finger_does_not_disturb_drawing(open_page: OpenPage, seven: Lines) -> None:
    with open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        touch = page.context.new_cdp_session(page)
        scrolled = page.evaluate("scrollY")
        box = page.locator("#paper").bounding_box()
        assert box
        left, top, side = box["x"], box["y"], box["width"]
        places = [{"x": left + x * side, "y": top + y * side, "id": 1} for x, y in seven[0]]
        second = {"x": left + 5, "y": top + side - 5, "id": 2}
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": places[:1]})
        for index, place in enumerate(places):
            fingers = [place, second] if index > 10 else [place]
            kind = "touchStart" if index == 11 else "touchMove"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(digit_of(page)).to_have_text("7")
        assert page.evaluate("scrollY") == scrolled


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_page_fits_window_width(open_page: OpenPage, seven: Lines, width: int) -> None:
    with open_page(viewport={"width": width, "height": 740}) as page:
        draw(page, seven)
        expect(digit_of(page)).to_have_text("7")
        page.get_by_text("Keys and pictures").click()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(open_page: OpenPage, seven: Lines, scheme: str) -> None:
    with open_page(color_scheme=scheme) as page:
        assert Axe().run(page).response["violations"] == []
        draw(page, seven)
        expect(digit_of(page)).to_have_text("7")
        page.get_by_text("Keys and pictures").click()
        page.evaluate("document.getElementById('trouble').textContent = 'The service is busy.'")
        assert Axe().run(page).response["violations"] == []
        page.get_by_role("button", name="Clear").click()
        draw(
            page, [[(0.1, 0.1), (0.9, 0.9), (0.1, 0.9), (0.9, 0.1), (0.5, 0.5), (0.9, 0.5)]]
        )  # no digit: the answer is unsure
        digit_of(page)
        assert Axe().run(page).response["violations"] == []


def test_colours_follow_system_theme(page: Page, seven: Lines) -> None:
    draw(page, seven)
    expect(digit_of(page)).to_have_text("7")
    corner = "canvas => canvas.getContext('2d').getImageData(0, 0, 1, 1).data[0]"
    light = [page.locator(canvas).evaluate(corner) for canvas in ("#seen", "#layer-conv1-32x28x28")]
    page.emulate_media(color_scheme="dark")
    assert min(light) > 200
    for canvas in ("#seen", "#layer-conv1-32x28x28"):

        def is_dark(canvas: str = canvas) -> bool:
            return bool(page.locator(canvas).evaluate(corner) < 99)

        wait_until(is_dark, f"{canvas} turning dark")


def test_stopped_service_is_reported(
    start_service: Callable[..., Any], model_file: Path, open_page: OpenPage, seven: Lines
) -> None:
    with start_service(SERVING_MODEL=model_file) as service:
        service.wait_for(200)
        with open_page(at=service.url, allowed="ERR_") as page:
            draw(page, seven)
            expect(digit_of(page)).to_have_text("7")
            service.process.terminate()
            service.process.wait(60)
            draw(page, LINE)
            expect(page.locator("#trouble")).to_contain_text("The service does not answer")
            expect(page.locator("body")).to_have_class(re.compile("stale"))


def test_page_recovers_with_the_service(open_page: OpenPage, seven: Lines) -> None:
    with open_page(allowed="ERR_") as page:
        page.route("**/*", lambda route: route.abort())
        draw(page, seven)
        expect(page.locator("#trouble")).to_contain_text("The service does not answer")
        expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
        page.unroute("**/*")
        expect(digit_of(page)).to_have_text("7")
        expect(page.locator("#trouble")).to_be_empty()


def test_busy_service_is_reported_and_retried(open_page: OpenPage, seven: Lines) -> None:
    def busy(route: Route) -> None:
        route.fulfill(status=503, json={"error": "16 explanations wait already."}, headers={"Retry-After": "1"})

    with open_page(allowed="503") as page:
        page.route("**/explain", busy)
        draw(page, seven)
        expect(page.locator("#trouble")).to_contain_text("The service is busy; retrying: 16 explanations")
        page.unroute("**/explain")
        expect(digit_of(page)).to_have_text("7")
        expect(page.locator("#trouble")).to_be_empty()


def test_page_works_without_feature_maps(
    start_service: Callable[..., Any], variant: Callable[..., Path], open_page: OpenPage, seven: Lines
) -> None:
    def cut(model: onnx.ModelProto) -> None:
        kept = [output for output in model.graph.output if output.name == "probabilities"]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    with start_service(SERVING_MODEL=variant(cut)) as service:
        service.wait_for(200)
        with open_page(at=service.url, allowed="501") as page:
            draw(page, seven)
            expect(digit_of(page)).to_have_text("7")
            expect(page.locator("#maps")).to_have_text("The model in service has no feature maps.")
