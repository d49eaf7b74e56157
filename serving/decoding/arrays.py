"""Request bodies to uint8 images `[n, 28, 28]` as MNIST stores them: 0 = background, 255 = ink."""

from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.contract import PIXELS, SIDE, Images
from serving.errors import RequestError

# Decoded JSON takes up to twenty times the memory of its text, and all threads wait for orjson. Larger bodies are
# therefore refused before that if they have more fields or texts than images need, and still larger ones if they have
# more values. The sentences for smaller bodies are more precise.
PRECISE_BYTES = 128 * 1024
LARGE_BYTES = 2**20
EXPECTED = 'expected {"images": [...]}, each image 28 rows of 28 integers from 0 to 255'


def check_count(count: int, max_images: int) -> None:
    """Raise `RequestError` (413) if `count` exceeds `max_images`."""
    if count > max_images:
        raise RequestError(
            413, f"{count} images are too many: at most {max_images} are allowed per request (SERVING_MAX_IMAGES)."
        )


def from_json(body: bytes, max_images: int) -> Images:
    """Decode `{"images": [...]}`, checking every value.

    Returns:
        uint8 `[n, 28, 28]`, n at least 1.

    Raises:
        RequestError: 400 not JSON, 413 too many images, 422 wrong shape or value.
    """
    if len(body) > PRECISE_BYTES:
        _check_fields(body)
    if len(body) > LARGE_BYTES:
        _check_values(body, max_images)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error}); {EXPECTED}.") from error
    if type(document) is not dict or document.keys() != {"images"}:
        raise RequestError(422, f"the body is not an object with the single field images; {EXPECTED}.")
    images = document["images"]
    if type(images) is not list:
        raise RequestError(422, f"images is {_kind(images)}, not a list of images; {EXPECTED}.")
    if not images:
        raise RequestError(422, f"images is empty; {EXPECTED}.")
    check_count(len(images), max_images)
    # bytes() converts a row at C speed. It rejects everything except integers from 0 to 255, true and false, so
    # bodies with one of these two words are rejected here. Searching for a letter is 30 times faster than for a word.
    if not ((b"u" in body or b"l" in body) and (b"true" in body or b"false" in body)):
        try:
            return np.frombuffer(_pixels(images), np.uint8).reshape(-1, SIDE, SIDE)
        except (TypeError, ValueError, OverflowError):
            pass  # _first_fault finds the position
    raise RequestError(422, f"{_first_fault(images)}; {EXPECTED}.")


def from_raw(body: bytes, max_images: int) -> Images:
    """Decode N times 784 bytes, row by row, image after image.

    Returns:
        uint8 `[n, 28, 28]`, n at least 1.

    Raises:
        RequestError: 413 too many images, 422 not a multiple of 784 bytes.
    """
    count, rest = divmod(len(body), PIXELS)
    if rest or not count:
        raise RequestError(
            422, f"{len(body)} bytes are not a whole number of images; expected N times 784 bytes, N at least 1."
        )
    check_count(count, max_images)
    return np.frombuffer(body, np.uint8).reshape(-1, SIDE, SIDE)


def _check_fields(body: bytes) -> None:
    # A search from each end stops at the first hit; the counts of a bad body would take longer.
    quote = body.find(b'"')
    if body.find(b":") != body.rfind(b":") or body.find(b'"', quote + 1) != body.rfind(b'"'):
        raise RequestError(422, f"the body has more than one field, or a text; {EXPECTED}.")


def _check_values(body: bytes, max_images: int) -> None:
    commas = int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(",")))
    if commas > 2 * PIXELS * max_images or body.count(b"[") + body.count(b"{") > 2 * (SIDE + 1) * max_images + 2:
        raise RequestError(413, f"the body has more values than {max_images} images (SERVING_MAX_IMAGES); {EXPECTED}.")


def _pixels(images: list[Any]) -> bytes:
    rows = list(chain.from_iterable(images))
    # Check the lengths first: bytes(28) would return 28 zeros, but an integer has no length.
    # set(map(...)) keeps the loop in C.
    if set(map(len, images)) != {SIDE} or set(map(len, rows)) != {SIDE}:
        raise ValueError
    return b"".join(map(bytes, rows))


def _first_fault(images: list[Any]) -> str:
    if len(images) == SIDE and _is_row(images[0]):
        return "images is a single image, not a list; put it into a list"
    for i, image in enumerate(images):
        if type(image) is not list or len(image) != SIDE:
            return f"images[{i}] is {_kind(image)}, not 28 rows"
        for j, row in enumerate(image):
            if type(row) is not list or len(row) != SIDE:
                return f"images[{i}][{j}] is {_kind(row)}, not a row of 28 integers"
            for k, pixel in enumerate(row):
                if type(pixel) is not int or not 0 <= pixel <= 255:
                    return f"images[{i}][{j}][{k}] is {_kind(pixel)}, not an integer from 0 to 255"
    return "a field name or text contains true or false"


def _is_row(value: Any) -> bool:
    return type(value) is list and len(value) == SIDE and all(type(pixel) is int for pixel in value)


def _kind(value: Any) -> str:
    if type(value) is list:
        return f"a list of {len(value)}"
    if type(value) is dict:
        return "an object"
    return orjson.dumps(value).decode()[:40]
