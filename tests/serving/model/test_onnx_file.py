import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.model.onnx_file import Model, ModelError
from tests.serving.conftest import set_metadata

Variant = Callable[[Callable[[onnx.ModelProto], None]], Path]


def test_trained_model_loads_and_recognises_digits(
    model_file: Path, test_digits: tuple[np.ndarray, np.ndarray]
) -> None:
    model = Model.load(model_file)
    images, labels = test_digits
    probabilities = model.predict(images)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (len(images), 10)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (probabilities.argmax(1) == labels).mean() > 0.9
    assert model.digest == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert not any(name.startswith("golden") for name in model.metadata)


def test_batch_size_does_not_change_probabilities(model_file: Path, test_digits: tuple[np.ndarray, np.ndarray]) -> None:
    model = Model.load(model_file, threads=2)
    images = test_digits[0][:128]
    whole = model.predict(images)
    for size in (1, 2, 7):
        parts = [model.predict(images[begin : begin + size]) for begin in range(0, len(images), size)]
        assert np.abs(np.concatenate(parts) - whole).max() < 1e-5


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        Model.load(path)
    sentence = str(error.value)
    assert sentence.startswith(str(path))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.removeprefix(str(path)).strip()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx") == "cannot be read: No such file or directory."


@pytest.mark.parametrize("content", [b"", b"a text, not a model\n" * 100])
def test_non_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    assert refused(path).startswith("is not an ONNX model that can be loaded: ")


def test_truncated_file_is_refused(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(model_file.read_bytes()[: model_file.stat().st_size // 2])
    assert refused(path).startswith("is not an ONNX model that can be loaded: ")


@pytest.mark.parametrize(("value", "message"), [("3", "'3'"), (None, "None")])
def test_wrong_contract_version_is_refused(variant: Variant, value: str | None, message: str) -> None:
    path = variant(lambda model: set_metadata(model, "contract", value))
    assert refused(path) == f"has contract version {message}, but this service needs '1' or '2'."


@pytest.mark.parametrize("name", ["recipe", "network", "test_accuracy", "run_id"])
def test_missing_metadata_is_refused(variant: Variant, name: str) -> None:
    assert f"lacks the metadata '{name}'" in refused(variant(lambda model: set_metadata(model, name, None)))


def test_non_numeric_metadata_is_refused(variant: Variant) -> None:
    path = variant(lambda model: set_metadata(model, "test_accuracy", "good"))
    assert refused(path) == "has the metadata test_accuracy='good', not a number."


def test_fractional_parameter_count_is_refused(variant: Variant) -> None:
    path = variant(lambda model: set_metadata(model, "parameters", "421642.0"))
    assert refused(path) == "has the metadata parameters='421642.0', not a whole number."


def test_file_that_cannot_be_pruned_is_refused(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_content: bytes, *_names: str) -> bytes:
        raise ValueError("not a protobuf message")

    monkeypatch.setattr("serving.model.onnx_file.keep_outputs", fail)
    assert refused(model_file) == "cannot be loaded with probabilities alone: not a protobuf message."


def test_fixed_batch_is_refused(variant: Variant) -> None:
    def fix(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    assert "batch symbolic" in refused(variant(fix))


def test_wrong_input_name_is_refused(variant: Variant) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["pixels" if name == "images" else name for name in node.input]
        model.graph.input[0].name = "pixels"

    assert refused(variant(rename)).startswith("takes (pixels: tensor(uint8)), but the contract requires")


def test_float_input_is_refused(variant: Variant) -> None:
    def widen(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["pixels" if name == "images" else name for name in node.input]
        model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.UINT8))
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

    assert "takes (images: tensor(float))" in refused(variant(widen))


def test_wrong_output_name_is_refused(variant: Variant) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Identity", ["probabilities"], ["logits"]))
        model.graph.output[0].name = "logits"

    assert "but the contract requires probabilities: tensor(float) [batch, 10]" in refused(variant(rename))


def test_external_weights_are_refused(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(model_file), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert refused(path).startswith("is not an ONNX model that can be loaded: ")


def test_altered_weights_fail_the_golden_batch(variant: Variant) -> None:
    def alter(model: onnx.ModelProto) -> None:
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(weights.raw_data, np.float32) * np.float32(1.2)
        weights.raw_data = values.tobytes()

    assert refused(variant(alter)).startswith("fails its golden batch: probabilities differ by ")


def test_nan_probabilities_fail_the_golden_batch(variant: Variant) -> None:
    def alter(model: onnx.ModelProto) -> None:
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.raw_data = np.full(len(weights.raw_data) // 4, np.nan, np.float32).tobytes()

    assert refused(variant(alter)).startswith("fails its golden batch: probabilities differ by nan")


@pytest.mark.parametrize("name", ["golden_images", "golden_probabilities"])
@pytest.mark.parametrize("value", [None, "", "not base64!", base64.b64encode(b"abc").decode()])
def test_damaged_golden_batch_is_refused(variant: Variant, name: str, value: str | None) -> None:
    sentence = refused(variant(lambda model: set_metadata(model, name, value)))
    assert "golden batch" in sentence


def test_golden_batch_with_too_few_probabilities_is_refused(variant: Variant) -> None:
    def shorten(model: onnx.ModelProto) -> None:
        golden = next(entry for entry in model.metadata_props if entry.key == "golden_probabilities")
        golden.value = base64.b64encode(base64.b64decode(golden.value)[:-40]).decode()

    assert "no usable golden batch" in refused(variant(shorten))
