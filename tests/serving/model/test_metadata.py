"""The metadata of a file can neither break `/model` nor forge a line of the log."""

from collections.abc import Callable
from pathlib import Path

import onnx
import orjson
import pytest

from serving.model.onnx_file import Model, ModelError
from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import Settings
from tests.serving.conftest import set_metadata

Variant = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        Model.load(path)
    sentence = str(error.value)
    assert sentence.isprintable()
    assert len(sentence) < 1100
    return sentence.removeprefix(f"{path} ")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("parameters", "9" * 40, "not a whole number from 1 to 1e+12."),
        ("parameters", "9" * 5000, "has the metadata parameters of 5000 characters, but at most 1000 are allowed."),
        ("parameters", "9" * 999, "not a whole number from 1 to 1e+12."),
        ("parameters", "0", "not a whole number from 1 to 1e+12."),
        ("test_accuracy", "nan", "has the metadata test_accuracy='nan', not a number from 0 to 1."),
        ("test_accuracy", "99.2", "has the metadata test_accuracy='99.2', not a number from 0 to 1."),
        ("validation_accuracy", "-0.1", "not a number from 0 to 1."),
        ("temperature", "inf", "has the metadata temperature='inf', not a number from 1e-06 to 1e+06."),
        ("temperature", "0", "not a number from 1e-06 to 1e+06."),
        ("std", "-1", "not a number from 1e-06 to 1e+06."),
        ("mean", "-inf", "not a number from -1e+06 to 1e+06."),
    ],
)
def test_number_out_of_range_is_refused(variant: Variant, name: str, value: str, expected: str) -> None:
    assert expected in refusal(variant(lambda model: set_metadata(model, name, value)))


@pytest.mark.parametrize(
    "value",
    ["good\n2026-01-01 [ERROR] forged line", "a\rb", "a\x00b", "\x1b[31mred", "a\u2028b", "right\u202eleft", "\x85"],
)
def test_text_that_can_forge_a_line_is_refused(variant: Variant, value: str) -> None:
    found = refusal(variant(lambda model: set_metadata(model, "recipe", value)))
    assert found == f"has the metadata recipe={value!r}, not printable on one line."


def test_long_text_is_refused(variant: Variant) -> None:
    found = refusal(variant(lambda model: set_metadata(model, "data_source", "x" * 1001)))
    assert found == "has the metadata data_source of 1001 characters, but at most 1000 are allowed."


def test_name_with_a_line_end_is_refused(variant: Variant) -> None:
    found = refusal(variant(lambda model: set_metadata(model, "a\nb", "c")))
    assert found == "has metadata with the name 'a\\nb', too long or not printable."


def test_many_entries_are_refused(variant: Variant) -> None:
    def fill(model: onnx.ModelProto) -> None:
        for number in range(100):
            model.metadata_props.add(key=f"note-{number}", value="x")

    assert "entries of metadata, but at most 64 are allowed." in refusal(variant(fill))


def test_repeated_entry_is_refused(variant: Variant) -> None:
    found = refusal(variant(lambda model: model.metadata_props.add(key="recipe", value="other")))
    assert found == "has the metadata 'recipe' twice."


def test_text_that_is_not_utf8_is_refused(variant: Variant) -> None:
    path = variant(lambda model: set_metadata(model, "recipe", "recipe-as-bytes"))
    path.write_bytes(path.read_bytes().replace(b"recipe-as-bytes", b"recipe-\xff\xfe-bytes"))
    assert refusal(path) == "has the metadata b'recipe' that is not UTF-8."


def test_name_of_an_input_cannot_forge_a_line(variant: Variant) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["images\nforged" if name == "images" else name for name in node.input]
        model.graph.input[0].name = "images\nforged"

    assert refusal(variant(rename)).startswith(r"takes (images\nforged: tensor(uint8)), but the contract requires")


def test_long_contract_version_is_cut(variant: Variant) -> None:
    assert refusal(variant(lambda model: set_metadata(model, "contract", "1" * 100_000))).endswith(" …")


def test_service_describes_itself_whatever_the_metadata_is_named(variant: Variant) -> None:
    def forge(model: onnx.ModelProto) -> None:
        for name in ("ready", "problem", "version", "source", "loaded_since"):
            set_metadata(model, name, "forged")

    path = variant(forge)
    store = Store(Settings(model=path), Metrics())
    assert store.refresh()
    description = store.describe()
    assert "forged" not in description.values()
    assert description["source"] == f"file {path}"


def test_file_name_that_is_not_utf8_is_described(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "model-\udcff.onnx"
    path.write_bytes(model_file.read_bytes())
    store = Store(Settings(model=path), Metrics())
    assert store.refresh()
    assert b"model-\\\\udcff.onnx" in orjson.dumps(store.describe())
