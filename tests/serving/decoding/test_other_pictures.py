"""Inputs unlike MNIST: printed digits in several fonts, overlapping digits, photographs, pages of text."""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from serving.inference.explain import SURE, is_sure
from serving.model.onnx_file import Model
from tests.serving.conftest import Service
from tests.serving.decoding.test_pictures import encoded

pytestmark = pytest.mark.slow

Digits = tuple[np.ndarray, np.ndarray]
FOLDER = Path(mpl.get_data_path())  # contains a photograph and fonts

# Fonts bundled with matplotlib, so that the set is the same on every machine.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "cmss10",
)
STROKES = (0, 0.02, 0.05)  # widening of each side of a line, as a share of the digit's height
SIZES = (50, 80, 150, 300, 600, 2000)
REQUIRED = 0.95


def page(digit: int, font: str, stroke: float, random: np.random.Generator) -> Image.Image:
    """Draw one digit on a page: dark or light, off-centre, in several sizes, on a noisy background."""
    size = int(random.choice(SIZES))
    file = FOLDER / "fonts" / "ttf" / f"{font}.ttf"
    height = size * random.uniform(0.35, 0.75)
    drawn = ImageFont.truetype(file, round(height / 0.75))
    width = round(stroke * height)
    left, top, right, bottom = drawn.getbbox(str(digit), stroke_width=width)
    x, y = (random.uniform(0.05, 0.95) * max(size - extent, 0) for extent in (right - left, bottom - top))
    picture = Image.new("L", (size, size), 0)
    ImageDraw.Draw(picture).text((x - left, y - top), str(digit), fill=255, font=drawn, stroke_width=width)
    background, ink = random.integers(0, 40), random.integers(190, 256)
    shade = background + np.asarray(picture, np.float32) * ((ink - background) / 255)
    shade += random.normal(0, 4, shade.shape).astype(np.float32)
    if random.random() < 0.5:
        shade = 255 - shade
    return Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))


def as_file(picture: Image.Image, random: np.random.Generator) -> bytes:
    content = io.BytesIO()
    if random.random() < 0.3:
        picture.save(content, "PNG", compress_level=1)
    else:
        picture.save(content, "JPEG", quality=int(random.integers(25, 75)))
    return content.getvalue()


def test_printed_digits_are_recognised(service: Service) -> None:
    cases = [(digit, font, stroke) for font in FONTS for stroke in STROKES for digit in range(10)]
    missed: list[str] = []
    for number, (digit, font, stroke) in enumerate(cases):
        random = np.random.default_rng(number)
        picture = page(digit, font, stroke, random)
        answer = service.client.post("/predict/files", files={"files": as_file(picture, random)}).json()
        if answer[0]["digit"] != digit:
            predicted = f"predicted {answer[0]['digit']}, {answer[0]['confidence']:.1%}"
            missed.append(f"case {number}: {digit} in {font}, stroke {stroke}, {picture.width} px, {predicted}")
    right = 1 - len(missed) / len(cases)
    report = "\n".join([f"{right:.1%} of {len(cases)} printed digits are recognised; errors:", *missed])
    print(report)
    assert right >= REQUIRED, report


def test_sure_answers_are_frequent_and_accurate(model_file: Path, test_digits: Digits) -> None:
    model, (images, labels) = Model.load(model_file), test_digits
    probabilities = model.predict(images)
    sure = np.array([is_sure(image, row.max()) for image, row in zip(images, probabilities, strict=True)])
    assert sure.mean() > 0.9
    assert (probabilities.argmax(1) == labels)[sure].mean() > 0.99


def test_overlapping_digits_lower_the_share_of_sure_answers(service: Service, test_digits: Digits) -> None:
    both = [np.maximum(test_digits[0][index], test_digits[0][index + 1]) for index in range(0, 60, 2)]
    answers = [
        service.client.post("/explain", json={"images": [image.tolist()]}).raise_for_status().json() for image in both
    ]
    assert sum(not answer["sure"] for answer in answers) >= len(answers) / 4
    assert all(answer["confidence"] >= SURE for answer in answers if answer["sure"])


def text_page(lines: int, height: int = 1200) -> Image.Image:
    """Draw a page of `lines` lines of text, in A4's proportions."""
    text = (
        "the quick brown fox jumps over the lazy dog and reads a page of text that shows no digit at all to anyone "
        * 40
    )
    width, step = round(height / 2**0.5), height / lines
    page = Image.new("L", (width, height), 255)
    font = ImageFont.truetype(FOLDER / "fonts" / "ttf" / "DejaVuSans.ttf", 0.6 * step)
    letters = int(0.85 * width / font.getlength(text) * len(text))
    for line in range(1, lines - 1):
        where = 0.07 * width, line * step
        ImageDraw.Draw(page).text(where, text[letters * line :][:letters], fill=0, font=font)
    return page


def test_photographs_and_text_are_never_sure(service: Service) -> None:
    with Image.open(FOLDER / "sample_data" / "grace_hopper.jpg") as photograph:
        others = [photograph.crop(box) for box in ((0, 0, 512, 600), (0, 0, 200, 200), (100, 100, 400, 400))]
    others += [text_page(lines) for lines in (5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60)]
    for other in others:
        answer = service.client.post("/explain", files={"files": encoded(other, "JPEG")})
        assert answer.status_code == 200
        assert answer.json()["sure"] is False, answer.json()["confidence"]
