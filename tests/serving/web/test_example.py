import io
from pathlib import Path

import numpy as np
from PIL import Image

from serving.decoding.arrays import from_raw
from serving.decoding.pictures import from_pictures
from serving.model.onnx_file import Model
from serving.web import example


def test_the_example_is_a_digit_of_the_bundled_test_set(test_digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = test_digits
    differences = np.abs(images.astype(int) - np.array(example.image())).max((1, 2))
    assert differences.min() <= 36  # its shades are that coarse
    assert labels[differences.argmin()] == example.DIGIT


def test_all_forms_are_the_same_digit_and_are_read_as_it(model_file: Path) -> None:
    dark = np.array(example.image(126), np.uint8)
    raw = from_raw(example.raw().encode(), 1)
    assert np.array_equal(raw[0], dark)
    file = example.picture().encode()
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.format == "BMP"
        assert np.array_equal(np.asarray(picture.convert("L")), dark)
    forms = [np.array([example.image()], np.uint8), raw, from_pictures([file], 784)]
    assert [Model.load(model_file).predict(form).argmax() for form in forms] == [example.DIGIT] * 3


def test_bytes_are_their_own_characters() -> None:
    for text in (example.raw(), example.picture()):
        assert text.isascii()
