from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from serving.model.pruning import keep_outputs


def test_pruned_model_computes_the_same_probabilities(
    model_file: Path, test_digits: tuple[np.ndarray, np.ndarray]
) -> None:
    content = model_file.read_bytes()
    pruned = keep_outputs(content, "probabilities")
    model = onnx.load_from_string(pruned)
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["probabilities"]
    assert {entry.key for entry in model.metadata_props} >= {"contract", "recipe"}
    whole, cut = (
        np.asarray(
            onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
                ["probabilities"], {"images": test_digits[0][:50]}
            )[0]
        )
        for data in (content, pruned)
    )
    assert np.abs(whole - cut).max() < 1e-5


def test_several_outputs_are_kept_in_file_order(model_file: Path) -> None:
    model = onnx.load_from_string(keep_outputs(model_file.read_bytes(), "conv2", "conv1"))
    assert [output.name for output in model.graph.output] == ["conv1", "conv2"]


@pytest.mark.parametrize("content", [b"this is a text", b"\xff" * 100])
def test_invalid_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a protobuf message|no output"):
        keep_outputs(content, "probabilities")


def test_missing_output_is_refused(model_file: Path) -> None:
    with pytest.raises(ValueError, match="no output attention"):
        keep_outputs(model_file.read_bytes(), "attention")
