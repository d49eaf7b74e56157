"""Request bodies to uint8 images in the form that a model takes; MNIST's are 28x28, 0 = background, 255 = ink."""

from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.contract import MNIST, Form, Images
from serving.errors import RequestError

# Decoded JSON takes up to twenty times the memory of its text, and all threads wait for orjson. Larger bodies are
# therefore refused before that if they have more fields or texts than images need, and still larger ones if they have
# more values. The sentences for smaller bodies are more precise.
PRECISE_BYTES = 128 * 1024
LARGE_BYTES = 2**20


def check_count(count: int, max_images: int) -> None:
    """Raise `RequestError` (413) if `count` exceeds `max_images`."""
    if count > max_images:
        raise RequestError(
            413, f"{count} images are too many: at most {max_images} are allowed per request (SERVING_MAX_IMAGES)."
        )


def from_json(body: bytes, max_images: int, form: Form = MNIST) -> Images:
    """Decode `{"images": [...]}`, checking every value.

    Returns:
        uint8 `[n, *form.shape]`, n at least 1.

    Raises:
        RequestError: 400 not JSON, 413 too many images, 422 wrong shape or value.
    """
    if len(body) > PRECISE_BYTES:
        _check_fields(body, form)
    if len(body) > LARGE_BYTES:
        _check_values(body, max_images, form)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error}); {expected(form)}.") from error
    if type(document) is not dict or document.keys() != {"images"}:
        raise RequestError(422, f"the body is not an object with the single field images; {expected(form)}.")
    images = document["images"]
    if type(images) is not list:
        raise RequestError(422, f"images is {_kind(images)}, not a list of images; {expected(form)}.")
    if not images:
        raise RequestError(422, f"images is empty; {expected(form)}.")
    check_count(len(images), max_images)
    # bytes() converts a row at C speed. It rejects everything except integers from 0 to 255, true and false, so
    # bodies with one of these two words are rejected here. Searching for a letter is 30 times faster than for a word.
    if not ((b"u" in body or b"l" in body) and (b"true" in body or b"false" in body)):
        try:
            return np.frombuffer(_pixels(images, form), np.uint8).reshape(form.batch)
        except (TypeError, ValueError, OverflowError):
            pass  # _first_fault finds the position
    raise RequestError(422, f"{_first_fault(images, form)}; {expected(form)}.")


def from_raw(body: bytes, max_images: int, form: Form = MNIST) -> Images:
    """Decode N times `form.pixels` bytes, row by row, image after image; of colour, three bytes for each pixel.

    Returns:
        uint8 `[n, *form.shape]`, n at least 1.

    Raises:
        RequestError: 413 too many images, 422 not a multiple of `form.pixels` bytes.
    """
    count, rest = divmod(len(body), form.pixels)
    if rest or not count:
        raise RequestError(
            422,
            f"{len(body)} bytes are not a whole number of images; expected N times {form.pixels} bytes, N at least 1.",
        )
    check_count(count, max_images)
    return np.frombuffer(body, np.uint8).reshape(form.batch)


def expected(form: Form) -> str:
    """Return what a JSON body must be, as part of a sentence."""
    row = f"{form.width} integers" if form.channels == 1 else f"{form.width} pixels, each {form.channels} integers"
    return f'expected {{"images": [...]}}, each image {form.height} rows of {row} from 0 to 255'


def _check_fields(body: bytes, form: Form) -> None:
    # A search from each end stops at the first hit; the counts of a bad body would take longer.
    quote = body.find(b'"')
    if body.find(b":") != body.rfind(b":") or body.find(b'"', quote + 1) != body.rfind(b'"'):
        raise RequestError(422, f"the body has more than one field, or a text; {expected(form)}.")


def _check_values(body: bytes, max_images: int, form: Form) -> None:
    lists = 1 + form.height * (1 if form.channels == 1 else 1 + form.width)  # of an image
    commas = int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(",")))
    if commas > 2 * form.pixels * max_images or body.count(b"[") + body.count(b"{") > 2 * lists * max_images + 2:
        raise RequestError(
            413, f"the body has more values than {max_images} images (SERVING_MAX_IMAGES); {expected(form)}."
        )


def _pixels(images: list[Any], form: Form) -> bytes:
    lists = images
    # Check the lengths first: bytes(28) would return 28 zeros, but an integer has no length.
    # set(map(...)) keeps the loop in C.
    for length in form.shape[:-1]:
        if set(map(len, lists)) != {length}:
            raise ValueError
        lists = list(chain.from_iterable(lists))
    if set(map(len, lists)) != {form.shape[-1]}:
        raise ValueError
    return b"".join(map(bytes, lists))


def _first_fault(images: list[Any], form: Form) -> str:
    if len(images) == form.height and _is_row(images[0], form.shape[1:]):
        return "images is a single image, not a list; put it into a list"
    contents = [f"{form.height} rows", f"a row of {form.width} integers", "an integer from 0 to 255"]
    if form.channels > 1:
        contents[1:2] = [f"a row of {form.width} pixels", f"{form.channels} integers"]
    for index, image in enumerate(images):
        if fault := _fault(image, form.shape):
            where, value = fault
            place = "".join(f"[{at}]" for at in (index, *where))
            return f"images{place} is {_kind(value)}, not {contents[len(where)]}"
    return "a field name or text contains true or false"


def _fault(value: Any, shape: tuple[int, ...]) -> tuple[list[int], Any] | None:
    """Return the place of the first value that does not belong into nested lists of this shape, and the value."""
    if type(value) is not list or len(value) != shape[0]:
        return [], value
    for at, each in enumerate(value):
        if len(shape) == 1:
            if type(each) is not int or not 0 <= each <= 255:
                return [at], each
        elif fault := _fault(each, shape[1:]):
            return [at, *fault[0]], fault[1]
    return None


def _is_row(value: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return type(value) is int
    return type(value) is list and len(value) == shape[0] and all(_is_row(each, shape[1:]) for each in value)


def _kind(value: Any) -> str:
    if type(value) is list:
        return f"a list of {len(value)}"
    if type(value) is dict:
        return "an object"
    return orjson.dumps(value).decode()[:40]
