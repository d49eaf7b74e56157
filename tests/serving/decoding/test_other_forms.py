"""Bodies for models of other forms than MNIST's: decoded and refused with the numbers of their form."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from serving.contract import Form
from serving.decoding.arrays import LARGE_BYTES, from_json, from_raw
from serving.errors import RequestError
from tests.serving.handmade import COLOUR, GREY, pictures


def form_of(values: dict[str, Any]) -> Form:
    names = ("height", "width", "channels", "preparation")
    return Form(values["dataset"], tuple(values["classes"]), *(values[name] for name in names))


FORMS = {"colour": (COLOUR, form_of(COLOUR)), "grey": (GREY, form_of(GREY))}
IN_COLOUR = 'expected {"images": [...]}, each image 32 rows of 32 pixels, each 3 integers from 0 to 255.'
IN_GREY = 'expected {"images": [...]}, each image 20 rows of 24 integers from 0 to 255.'


def body(images: Any) -> bytes:
    return json.dumps({"images": images}).encode()


@pytest.mark.parametrize("name", FORMS)
def test_round_trip_preserves_images(name: str) -> None:
    values, form = FORMS[name]
    sent = pictures(values, 7)
    for decoded in (from_json(body(sent.tolist()), 7, form), from_raw(sent.tobytes(), 7, form)):
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, sent)


def colour(*place: int, value: Any) -> list[Any]:
    """A black picture with another value in one place."""
    image: list[Any] = np.zeros((32, 32, 3), int).tolist()
    inner: Any = image
    for at in place[:-1]:
        inner = inner[at]
    inner[place[-1]] = value
    return image


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (colour(3, value=0), "images[0][3] is 0, not a row of 32 pixels"),
        (colour(3, value=[[0] * 3] * 31), "images[0][3] is a list of 31, not a row of 32 pixels"),
        (colour(3, 5, value=7), "images[0][3][5] is 7, not 3 integers"),
        (colour(3, 5, value=[1, 2]), "images[0][3][5] is a list of 2, not 3 integers"),
        (colour(3, 5, value="abc"), 'images[0][3][5] is "abc", not 3 integers'),
        (colour(3, 5, value={"1": 1, "2": 2, "3": 3}), "images[0][3][5] is an object, not 3 integers"),
        (colour(3, 5, 2, value=256), "images[0][3][5][2] is 256, not an integer from 0 to 255"),
        (colour(3, 5, 2, value=0.5), "images[0][3][5][2] is 0.5, not an integer from 0 to 255"),
        (colour(3, 5, 2, value=True), "images[0][3][5][2] is true, not an integer from 0 to 255"),
        (colour(3, 5, 2, value=[0]), "images[0][3][5][2] is a list of 1, not an integer from 0 to 255"),
        ([[0] * 32] * 32, "images[0][0][0] is 0, not 3 integers"),
        (np.zeros((28, 28), int).tolist(), "images[0] is a list of 28, not 32 rows"),
    ],
)
def test_wrong_colour_picture_is_refused(images: Any, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        from_json(body([images]), 10, FORMS["colour"][1])
    assert refused.value.status == 422
    assert refused.value.sentence.endswith(f"; {IN_COLOUR}")
    assert refused.value.sentence.startswith(message)


def test_single_picture_outside_a_list_is_recognised() -> None:
    for name, sentence in (("colour", IN_COLOUR), ("grey", IN_GREY)):
        values, form = FORMS[name]
        with pytest.raises(RequestError) as refused:
            from_json(body(pictures(values, 1)[0].tolist()), 100, form)
        assert refused.value.sentence == f"images is a single image, not a list; put it into a list; {sentence}"


def test_sentences_name_the_numbers_of_a_grey_form() -> None:
    form = FORMS["grey"][1]
    image = np.zeros((20, 24), int).tolist()
    for images, message in (
        ([image[:-1]], "images[0] is a list of 19, not 20 rows"),
        ([[*image[:-1], [0] * 23]], "images[0][19] is a list of 23, not a row of 24 integers"),
    ):
        with pytest.raises(RequestError) as refused:
            from_json(body(images), 10, form)
        assert refused.value.sentence == f"{message}; {IN_GREY}"


@pytest.mark.parametrize(("name", "size"), [("colour", 3072), ("grey", 480)])
def test_raw_size_must_be_a_multiple_of_the_bytes_of_a_picture(name: str, size: int) -> None:
    form = FORMS[name][1]
    assert form.pixels == size
    for length in (0, 784, size - 1, 2 * size + 1):
        with pytest.raises(RequestError) as refused:
            from_raw(bytes(length), 10, form)
        expected = f"expected N times {size} bytes, N at least 1."
        assert refused.value.sentence == f"{length} bytes are not a whole number of images; {expected}"
    with pytest.raises(RequestError, match=r"^3 images are too many: at most 2"):
        from_raw(bytes(3 * size), 2, form)


@pytest.mark.parametrize("name", FORMS)
def test_large_body_within_the_limit_is_read(name: str) -> None:
    values, form = FORMS[name]
    sent = pictures(values, LARGE_BYTES // form.pixels)
    content = json.dumps({"images": sent.tolist()}, indent=1).encode()
    assert len(content) > LARGE_BYTES
    assert np.array_equal(from_json(content, len(sent), form), sent)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("filling", [b"0,", b"[],"])
def test_large_body_with_more_values_is_refused_before_decoding(
    name: str, filling: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMS[name][1]
    monkeypatch.setattr("serving.decoding.arrays.orjson", None)
    content = b'{"images": [' + filling * LARGE_BYTES + b"0]}"
    tracemalloc.start()
    with pytest.raises(RequestError, match="the body has more values than 100 images") as refused:
        from_json(content, 100, form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == 413
    assert peak < 4 * len(content)
