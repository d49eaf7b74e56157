"""Bodies of requests to uint8 images `[n, 28, 28]`, as MNIST stores them: 0 = background, 255 = ink."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.contract import PIXELS, SIDE, Images
from serving.errors import RequestError

# Decoded JSON may take twenty times the memory of its text: larger bodies are looked at before they are decoded.
LARGE_BYTES = 2**20
EXPECTED = 'expected {"images": [...]}, each image 28 rows of 28 integers from 0 to 255'


def check_count(count: int, max_images: int) -> None:
    """Raise `RequestError` (413) when `count` images are more than `max_images`."""
    if count > max_images:
        raise RequestError(
            413, f"{count} images are too many: at most {max_images} are taken in a request (SERVING_MAX_IMAGES)."
        )


def from_json(body: bytes, max_images: int) -> Images:
    """Decode `{"images": [...]}`, checking every value.

    Returns:
        uint8 `[n, 28, 28]`, n at least 1.

    Raises:
        RequestError: 400 not JSON, 413 too many images, 422 another shape or value.
    """
    if len(body) > LARGE_BYTES:
        _check_values(body, max_images)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error}); {EXPECTED}.") from error
    if type(document) is not dict or document.keys() != {"images"}:
        raise RequestError(422, f"the body is not an object with the one field images; {EXPECTED}.")
    images = document["images"]
    if type(images) is not list:
        raise RequestError(422, f"images is {_kind(images)}, not a list of images; {EXPECTED}.")
    if not images:
        raise RequestError(422, f"images is empty; {EXPECTED}.")
    check_count(len(images), max_images)
    # bytes() takes a row at C speed and refuses what is no integer from 0 to 255, all but true and false.
    # Where neither word is in the body, no pixel is one of them; a letter is found far faster than a word.
    if not ((b"u" in body or b"l" in body) and (b"true" in body or b"false" in body)):
        try:
            return np.frombuffer(_pixels(images), np.uint8).reshape(-1, SIDE, SIDE)
        except (TypeError, ValueError, OverflowError):
            pass  # _first_fault says where
    raise RequestError(422, f"{_first_fault(images)}; {EXPECTED}.")


def from_raw(body: bytes, max_images: int) -> Images:
    """Decode N times 784 bytes, row by row, image after image.

    Returns:
        uint8 `[n, 28, 28]`, n at least 1.

    Raises:
        RequestError: 413 too many images, 422 another number of bytes.
    """
    count, rest = divmod(len(body), PIXELS)
    if rest or not count:
        raise RequestError(
            422, f"{len(body)} bytes are not a whole number of images; expected N times 784 bytes, N at least 1."
        )
    check_count(count, max_images)
    return np.frombuffer(body, np.uint8).reshape(-1, SIDE, SIDE)


def _check_values(body: bytes, max_images: int) -> None:
    commas = int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(",")))
    if commas > 2 * PIXELS * max_images or body.count(b"[") + body.count(b"{") > 2 * (SIDE + 1) * max_images + 2:
        raise RequestError(
            413, f"the body holds more values than {max_images} images have (SERVING_MAX_IMAGES); {EXPECTED}."
        )


def _pixels(images: list[Any]) -> bytes:
    rows = list(chain.from_iterable(images))
    # The lengths first: bytes(28) would be 28 zeros, but has no length. set(map(...)) keeps the loop in C.
    if set(map(len, images)) != {SIDE} or set(map(len, rows)) != {SIDE}:
        raise ValueError
    return b"".join(map(bytes, rows))


def _first_fault(images: list[Any]) -> str:
    if len(images) == SIDE and _is_row(images[0]):
        return "images is one image by itself; a single image must be in a list, too"
    for i, image in enumerate(images):
        if type(image) is not list or len(image) != SIDE:
            return f"images[{i}] is {_kind(image)}, not 28 rows"
        for j, row in enumerate(image):
            if type(row) is not list or len(row) != SIDE:
                return f"images[{i}][{j}] is {_kind(row)}, not a row of 28 integers"
            for k, pixel in enumerate(row):
                if type(pixel) is not int or not 0 <= pixel <= 255:
                    return f"images[{i}][{j}][{k}] is {_kind(pixel)}, not an integer from 0 to 255"
    return "a field name or text holds true or false"


def _is_row(value: Any) -> bool:
    return type(value) is list and len(value) == SIDE and all(type(pixel) is int for pixel in value)


def _kind(value: Any) -> str:
    if type(value) is list:
        return f"a list of {len(value)}"
    if type(value) is dict:
        return "an object"
    return orjson.dumps(value).decode()[:40]
