"""The form of a model comes from its file: shapes, classes and preparation, each checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest

from serving.contract import MNIST
from serving.model.onnx_file import Model, ModelError
from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.serving.conftest import NAMES, set_metadata
from tests.serving.handmade import COLOUR, GREY, pictures, write_model

FORMS = {"colour": COLOUR, "grey": GREY}


@pytest.fixture
def changed(colour_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a copy of the colour model with another entry of metadata, or without it."""

    def write(name: str, value: str | None) -> Path:
        model = onnx.load(colour_file)
        set_metadata(model, name, value)
        onnx.save(model, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return write


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        Model.load(path)
    sentence = str(error.value)
    assert sentence.isprintable()
    assert sentence.endswith(".")
    return sentence.removeprefix(f"{path} ")


def test_version_1_has_the_form_of_mnist(version_1: Path) -> None:
    model = Model.load(version_1)
    assert model.form is MNIST
    assert model.subset == "tenth"
    assert (MNIST.shape, MNIST.pixels, MNIST.has_digits, MNIST.has_strokes) == ((28, 28), 784, True, True)


@pytest.mark.parametrize("name", FORMS)
def test_version_2_has_the_form_of_its_metadata(tmp_path: Path, name: str) -> None:
    expected = FORMS[name]
    model = Model.load(write_model(tmp_path / "model.onnx", expected))
    form = model.form
    found = (form.dataset, list(form.classes), form.height, form.width, form.channels, form.preparation)
    assert found == tuple(expected[key] for key in list(expected)[:6])
    images = pictures(expected, 5)
    assert images.shape[1:] == form.shape
    assert images[0].size == form.pixels
    assert model.predict(images).shape == (5, len(form.classes))
    assert not form.has_digits
    assert not form.has_strokes


def test_mnist_in_version_2_answers_as_in_version_1(
    version_2: Path, model_file: Path, test_digits: tuple[np.ndarray, np.ndarray]
) -> None:
    model = Model.load(version_2)
    assert model.form.classes == NAMES
    assert np.array_equal(model.predict(test_digits[0][:5]), Model.load(model_file).predict(test_digits[0][:5]))


@pytest.mark.parametrize("name", ["colour", "grey", "version 1"])
def test_store_describes_the_form(tmp_path: Path, version_1: Path, name: str) -> None:
    path = write_model(tmp_path / "model.onnx", FORMS[name]) if name in FORMS else version_1
    store = Store(Settings(model=path), Metrics())
    assert store.refresh(), store.problem
    described: dict[str, Any] = orjson.loads(orjson.dumps(store.describe()))
    if name in FORMS:
        assert {key: described[key] for key in FORMS[name]} == FORMS[name]
        assert described["subset"] == described["data"] == "full"
    else:
        assert described["classes"] == list("0123456789")
        assert (described["dataset"], described["height"], described["width"]) == ("mnist", 28, 28)
        assert (described["channels"], described["preparation"]) == (1, {"name": "stroke"})
        assert described["subset"] == described["data"] == "tenth"
        assert described["mean"] == 0.1307


def names(count: int) -> str:
    return json.dumps([f"class {index}" for index in range(count)])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("classes", names(5), "[batch, 5], one for each class."),
        ("classes", names(3), "[batch, 3], one for each class."),
        ("classes", names(101), "has 101 classes, but 2 to 100 are allowed."),
        ("classes", names(1), "has 1 classes, but 2 to 100 are allowed."),
        ("classes", '["a", "b", "a", "c"]', "has the class 'a' twice."),
        ("classes", '["a", "b", "", "c"]', "has the class '', but a name has 1 to 100 printable characters."),
        ("classes", json.dumps(["a", "b", "c", "x" * 101]), "but a name has 1 to 100 printable characters."),
        ("classes", '["a", "b", "c", "d\\u0007"]', "has the class 'd\\x07', but a name"),
        ("classes", '["a", "b", "c", "d\\n"]', "but a name has 1 to 100 printable characters."),
        ("classes", '["a", "b", "c", "d\u202e"]', "not printable on one line."),
        ("classes", '["a", "b", "c", "\\ud800"]', "that is not JSON."),
        ("classes", '["a", "b", "c", 4]', "has the metadata classes that is not a JSON list of names."),
        ("classes", '{"a": 0}', "has the metadata classes that is not a JSON list of names."),
        ("classes", '["a", "b"', 'has the metadata classes=\'["a", "b"\' that is not JSON.'),
        ("classes", "[" * 5000, "that is not JSON."),
        ("classes", json.dumps(["x" * 2**17]), "but at most 131072 are allowed."),
        ("classes", None, "lacks the metadata 'classes' that the contract requires."),
        ("height", "7", "has the metadata height='7', not a whole number from 8 to 64."),
        ("height", "65", "not a whole number from 8 to 64."),
        ("height", "-32", "not a whole number from 8 to 64."),
        ("height", "32.0", "not a whole number from 8 to 64."),
        ("height", " 32", "not a whole number from 8 to 64."),
        ("height", "3_2", "not a whole number from 8 to 64."),
        ("height", "٣٢", "not a whole number from 8 to 64."),
        ("height", "9" * 900, "not a whole number from 8 to 64."),
        ("height", "16", "but the contract requires [batch, 16, 32, 3], batch symbolic."),
        ("width", "31", "but the contract requires [batch, 32, 31, 3], batch symbolic."),
        ("width", None, "lacks the metadata 'width' that the contract requires."),
        ("channels", "2", "has the metadata channels='2', not a whole number 1 or 3."),
        ("channels", "1", "has the metadata mean='[0.4, 0.5, 0.6]', not a number."),
        ("preparation", '{"name": "blur"}', "pictures that cannot be prepared: the preparation {'name': 'blur'}"),
        ("preparation", '{"name": "fit"}', "the parameters of the preparation fit are []; expected background"),
        ("preparation", '{"name": "fit", "background": "pink"}', "the background 'pink' of the preparation"),
        ("preparation", '{"name": "fit", "background": "edge", "blur": 3}', "['background', 'blur']; expected"),
        ("preparation", '{"name": "stroke"}', "the preparation stroke is for grey pictures alone"),
        ("preparation", "fit", "has the metadata preparation='fit' that is not JSON."),
        ("preparation", "null", "the preparation None is unknown; expected one with the name stroke or fit"),
        ("preparation", None, "lacks the metadata 'preparation' that the contract requires."),
        ("dataset", None, "lacks the metadata 'dataset' that the contract requires."),
        ("dataset", "a\nb", "not printable on one line."),
        ("subset", None, "lacks the metadata 'subset' that the contract requires."),
        ("mean", "0.4", "has the metadata mean='0.4', not a JSON list of 3 numbers."),
        ("mean", "[0.4, 0.5]", "not a JSON list of 3 numbers."),
        ("mean", '[0.4, 0.5, "0.6"]', "not a JSON list of 3 numbers."),
        ("mean", "[0.4, 0.5, [0.6]]", "not a JSON list of 3 numbers."),
        ("mean", "[0.4, 0.5, NaN]", "not a JSON list of 3 numbers."),
        ("mean", "[" * 1000, "not a JSON list of 3 numbers."),
        ("std", "[0.2, 0.2, 0]", "not a number from 1e-06 to 1e+06."),
        ("temperature", "[1, 1, 1]", "has the metadata temperature='[1, 1, 1]', not a number."),
        ("contract", "3", "has contract version '3', but this service needs '1' or '2'."),
        ("golden_images", "AAAA", "has no readable golden batch: golden_images is missing or damaged."),
    ],
)
def test_bad_form_is_refused(changed: Callable[..., Path], name: str, value: str | None, expected: str) -> None:
    assert expected in refusal(changed(name, value))


def test_list_of_numbers_is_refused_for_grey_pictures(variant: Callable[..., Path]) -> None:
    path = variant(lambda model: set_metadata(model, "mean", "[0.1, 0.2, 0.3]"))
    assert refusal(path) == "has the metadata mean='[0.1, 0.2, 0.3]', not a number."


def test_version_1_lacks_its_data(version_1: Path) -> None:
    model = onnx.load(version_1)
    set_metadata(model, "data", None)
    onnx.save(model, version_1)
    assert refusal(version_1) == "lacks the metadata 'data' that the contract requires."


def test_entries_of_a_form_do_not_matter_in_version_1(version_1: Path) -> None:
    model = onnx.load(version_1)
    set_metadata(model, "classes", "forged")
    onnx.save(model, version_1)
    store = Store(Settings(model=version_1), Metrics())
    assert store.refresh()
    assert store.describe()["classes"] == MNIST.classes


def test_a_hundred_long_names_are_accepted(tmp_path: Path) -> None:
    classes = [f"{index:02}{'𝄞' * 98}" for index in range(100)]
    model = Model.load(write_model(tmp_path / "model.onnx", {**COLOUR, "classes": classes}))
    assert list(model.form.classes) == classes
