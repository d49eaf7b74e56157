"""The page `/draw` with models of other pictures: it adapts when the model in service changes."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, digit_of, draw, inked
from tests.serving.decoding.test_pictures import encoded
from tests.serving.handmade import COLOUR, GREY, pictures, write_model

pytestmark = pytest.mark.browser

LINE = [[(0.5, 0.2), (0.5, 0.4), (0.5, 0.6), (0.5, 0.8)]]


def test_page_follows_a_swap_to_colour_to_many_classes_and_back(
    start_service: Callable[..., Any], open_page: OpenPage, model_file: Path, tmp_path: Path
) -> None:
    many = GREY | {"classes": [f"class {number}" for number in range(47)]}
    coloured, varied = write_model(tmp_path / "colour.onnx", COLOUR), write_model(tmp_path / "many.onnx", many)
    served = Path(shutil.copy(model_file, tmp_path / "served.onnx"))

    def put(model: Path) -> None:
        shutil.copy(model, tmp_path / "next")
        (tmp_path / "next").replace(served)

    with start_service(SERVING_MODEL=served, SERVING_POLL_SECONDS=0.2) as service:
        service.wait_for(200)
        with open_page(service.url) as page:
            expect(page.locator("#title")).to_have_text("Draw a digit")
            expect(page.locator("#bars li")).to_have_count(10)
            draw(page, LINE)
            assert inked(page, "#paper")

            put(coloured)
            expect(page.locator("#title")).to_have_text("Show a picture for folder:signs")
            expect(page.locator("#bars li span:first-child")).to_have_text(COLOUR["classes"])
            assert not inked(page, "#paper")  # strokes are nothing for this model
            draw(page, LINE)
            assert not inked(page, "#paper")
            content = encoded(Image.fromarray(pictures(COLOUR, 1)[0]).resize((90, 90)), "PNG")
            page.locator("#file").set_input_files({"name": "sign.png", "mimeType": "image/png", "buffer": content})
            expect(digit_of(page)).to_have_text(re.compile("|".join(COLOUR["classes"])))
            shades = page.locator("#seen").evaluate(
                "canvas => [canvas.width, canvas.height, ...canvas.getContext('2d').getImageData(9, 9, 1, 1).data]"
            )
            assert shades[:2] == [32, 32]
            assert len(set(shades[2:5])) > 1  # in colour
            for canvas in ("#paper", "#saliency", "#layer-conv1-8x32x32"):
                assert inked(page, canvas), canvas

            put(varied)  # the opened picture is sent again
            expect(page.locator("#bars li")).to_have_count(10)
            expect(digit_of(page)).to_have_text(re.compile(r"class \d+"))
            shares = page.locator("#bars .percent").all_inner_texts()
            values = [float(re.sub(r"[^\d.]", "", share)) for share in shares]
            assert values == sorted(values, reverse=True)
            page.keyboard.press("Delete")

            put(model_file)
            expect(page.locator("#title")).to_have_text("Draw a digit")
            draw(page, LINE)
            expect(digit_of(page)).to_have_text(re.compile(r"^\d\??$"))


def test_camera_takes_a_picture(open_page: OpenPage, start_service: Callable[..., Any], tmp_path: Path) -> None:
    """Chromium has no camera here: a canvas takes its place."""
    model = write_model(tmp_path / "colour.onnx", COLOUR)
    with start_service(SERVING_MODEL=model) as service:
        service.wait_for(200)
        with open_page(service.url) as page:
            page.evaluate(
                """() => {
                    const canvas = document.createElement("canvas");
                    Object.assign(canvas, { width: 64, height: 48 });
                    const context = canvas.getContext("2d");
                    const paint = () => { context.fillStyle = "#c03040"; context.fillRect(0, 0, 64, 48); };
                    paint();
                    setInterval(paint, 50);
                    navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(20);
                }"""
            )
            camera = page.locator("#camera")
            expect(camera).to_have_text("Camera")
            camera.click()
            expect(camera).to_have_text("Take it")
            expect(page.locator("#viewfinder")).to_be_visible()
            page.wait_for_function("document.getElementById('viewfinder').videoWidth > 0")
            camera.click()
            expect(page.locator("#viewfinder")).to_be_hidden()
            expect(digit_of(page)).to_have_text(re.compile("|".join(COLOUR["classes"])))
            assert inked(page, "#paper")


def test_camera_that_may_not_be_used_is_explained(open_page: OpenPage) -> None:
    with open_page() as page:
        page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('no')); }")
        page.locator("#camera").click()
        expect(page.locator("#trouble")).to_contain_text("The camera cannot be used; open a picture instead.")
