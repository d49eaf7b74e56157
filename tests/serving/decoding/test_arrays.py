import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from serving.decoding.arrays import from_json, from_raw
from serving.errors import RequestError

IMAGE = [[0] * 28 for _ in range(28)]


def body(images: Any) -> bytes:
    return json.dumps({"images": images}).encode()


def with_pixel(value: Any) -> list[list[Any]]:
    image: list[list[Any]] = [list(row) for row in IMAGE]
    image[3][5] = value
    return image


def test_json_round_trip_preserves_images(test_digits: tuple[np.ndarray, np.ndarray]) -> None:
    sent = test_digits[0][:7]
    decoded = from_json(body(sent.tolist()), 7)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, sent)


def test_raw_round_trip_preserves_images(test_digits: tuple[np.ndarray, np.ndarray]) -> None:
    sent = test_digits[0][:7]
    decoded = from_raw(sent.tobytes(), 7)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, sent)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"images",
        b'{"images": [NaN]}',
        b'{"images": [[[01]]]}',
        b"[" * 5000 + b"]" * 5000,
    ],
)
def test_invalid_json_returns_400(content: bytes) -> None:
    with pytest.raises(RequestError, match=r"^the body is not JSON ") as refused:
        from_json(content, 10)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"null", "not an object with the single field images"),
        (b"[]", "not an object with the single field images"),
        (b"{}", "not an object with the single field images"),
        (b'{"image": []}', "not an object with the single field images"),
        (b'{"images": [], "more": 1}', "not an object with the single field images"),
        (body([[0] * 28] * 27), r"images\[0\]\[0\] is 0, not a row"),
        (body(IMAGE[0]), r"images\[0\] is 0, not 28 rows"),
        (body(IMAGE), "images is a single image, not a list; put it into a list"),
        (body([[IMAGE]]), r"images\[0\] is a list of 1, not 28 rows"),
        (body(28), "images is 28, not a list"),
        (body([28]), r"images\[0\] is 28, not 28 rows"),
        (body([[28] * 28]), r"images\[0\]\[0\] is 28, not a row"),
        (body("text"), 'images is "text", not a list'),
        (body({"0": IMAGE}), "images is an object, not a list"),
        (body(None), "images is null, not a list"),
        (body([]), "images is empty"),
        (body([[]]), r"images\[0\] is a list of 0"),
        (body([IMAGE, IMAGE[:27]]), r"images\[1\] is a list of 27, not 28 rows"),
        (body([[*IMAGE, IMAGE[0]]]), r"images\[0\] is a list of 29, not 28 rows"),
        (body([[*IMAGE[:27], IMAGE[0][:27]]]), r"images\[0\]\[27\] is a list of 27"),
        (body([[*IMAGE[:27], "\0" * 28]]), r"images\[0\]\[27\] is "),
        (body([[*IMAGE[:26], [0] * 27, [0] * 29]]), r"images\[0\]\[26\] is a list of 27"),
        (body([IMAGE, with_pixel(256)]), r"images\[1\]\[3\]\[5\] is 256, not an integer from 0 to 255"),
        (body([with_pixel(300)]), r"is 300, not"),
        (body([with_pixel(-1)]), r"is -1, not"),
        (body([with_pixel(2**63)]), r"is 9223372036854775808, not"),
        (body([with_pixel(2**70)]), r"not an integer"),
        (body([with_pixel(0.5)]), r"is 0.5, not"),
        (body([with_pixel(7.0)]), r"is 7.0, not"),
        (body([with_pixel("7")]), r'is "7", not'),
        (body([with_pixel(None)]), r"is null, not"),
        (body([with_pixel([0])]), r"is a list of 1, not"),
        (body([with_pixel(True)]), r"is true, not"),
        (body([with_pixel(False)]), r"is false, not"),
        (body([with_pixel(1)]).replace(b"1", b"1e2"), r"is 100.0, not"),
    ],
)
def test_wrong_shape_or_value_returns_422(content: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        from_json(content, 100)
    assert refused.value.status == 422
    assert "expected" in refused.value.sentence
    assert refused.value.sentence.endswith(".")


def test_number_beyond_double_range_is_refused() -> None:
    with pytest.raises(RequestError) as refused:
        from_json(body([with_pixel(1)]).replace(b"1", b"1e400"), 10)
    assert refused.value.status in (400, 422)


@pytest.mark.parametrize("size", [0, 1, 783, 785, 784 * 2 + 1])
def test_raw_size_must_be_a_multiple_of_784(size: int) -> None:
    with pytest.raises(RequestError, match=rf"^{size} bytes are not a whole number of images") as refused:
        from_raw(bytes(size), 10)
    assert refused.value.status == 422


def test_image_limit_is_inclusive() -> None:
    assert len(from_json(body([IMAGE] * 3), 3)) == 3
    assert len(from_raw(bytes(784 * 3), 3)) == 3
    for decode, content in ((from_json, body([IMAGE] * 4)), (from_raw, bytes(784 * 4))):
        with pytest.raises(RequestError, match=r"^4 images are too many: at most 3") as refused:
            decode(content, 3)
        assert refused.value.status == 413


MANY_KEYS = b'{"images": [' + b'{"a": 0}, ' * 1_200_000
WIDE = b'{"images":[' + b",".join([json.dumps(IMAGE).replace(" ", "  ").encode()] * 60) + b"]}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (MANY_KEYS + b"0]}", "more than one field, or a text"),
        (MANY_KEYS.replace(b": 0", b""), "more than one field, or a text"),
        (WIDE.replace(b"[[", b'["', 1), "more than one field, or a text"),
        (WIDE[:-1] + b', "more": 1}', "more than one field, or a text"),
        (b'{"images": [' + b" " * 200_000 + b'"\\""]}', "more than one field, or a text"),
    ],
    ids=("objects", "texts", "quote", "field", "escaped quote"),
)
def test_large_body_of_other_fields_is_refused_before_decoding(
    content: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.decoding.arrays.orjson", None)
    tracemalloc.start()
    with pytest.raises(RequestError, match=said) as refused:
        from_json(content, 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == 422
    assert "expected" in refused.value.sentence
    assert peak < 100_000


def test_large_body_of_one_field_is_read_with_any_white_space() -> None:
    for content in (WIDE, WIDE.replace(b",", b"\n, "), b" " * 200_000 + body([IMAGE]), b'{"im\\u0061ges":' + WIDE[10:]):
        assert not from_json(content, 60).any()
