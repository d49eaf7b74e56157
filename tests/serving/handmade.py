"""Small models of contract version 2, made without training, in any form."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

COLOUR: dict[str, Any] = {
    "dataset": "folder:signs",
    "classes": ["stop sign", "Vorfahrt", "“yield”", "no entry"],
    "height": 32,
    "width": 32,
    "channels": 3,
    "preparation": {"name": "fit", "background": "edge"},
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
}
GREY: dict[str, Any] = {
    "dataset": "fashion-mnist",
    "classes": ["shirt", "bag", "boot"],
    "height": 20,
    "width": 24,
    "channels": 1,
    "preparation": {"name": "fit", "background": "black"},
    "mean": 0.3,
    "std": 0.35,
}
TEXTS = {
    "run_id": "0" * 32,
    "recipe": "handmade",
    "network": "Handmade",
    "data_digest": "0" * 64,
    "code_digest": "0" * 64,
    "fingerprint": "0" * 64,
    "created": "2026-01-31T12:00:00+00:00",
    "subset": "full",
    "parameters": "100",
    "temperature": "1.0",
    "validation_accuracy": "0.9",
    "test_accuracy": "0.9",
    "contract": "2",
}
MAPS = 8


def metadata_of(form: dict[str, Any]) -> dict[str, str]:
    """The metadata of a form, as text and JSON."""
    return {name: value if name == "dataset" else json.dumps(value) for name, value in form.items()}


def pictures(form: dict[str, Any], count: int, seed: int = 0) -> np.ndarray:
    """Random pictures of a form: uint8 `[count, height, width]` or `[count, height, width, 3]`."""
    shape = [form["height"], form["width"], *([3] if form["channels"] == 3 else [])]
    generator = np.random.default_rng(seed)
    plain = generator.integers(0, 256, [count, 1, 1, *shape[2:]])
    noisy: np.ndarray = np.clip(plain + generator.integers(-40, 40, [count, *shape]), 0, 255).astype(np.uint8)
    return noisy


def write_model(to: Path, form: dict[str, Any]) -> Path:
    """Write a model with one convolution, `conv1`, whose answer depends on the colours of the picture."""
    generator = np.random.default_rng(1)
    channels, classes = form["channels"], len(form["classes"])
    shape = [form["height"], form["width"], *([3] if channels == 3 else [])]
    turn = helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2])
    if channels == 1:
        turn = helper.make_node("Unsqueeze", ["scaled", "axis"], ["planes"])
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "largest"], ["scaled"]),
        turn,
        helper.make_node("Conv", ["planes", "filters"], ["sums"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sums"], ["conv1"]),
        helper.make_node("GlobalAveragePool", ["conv1"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    filters = generator.normal(0, 1, [MAPS, channels, 3, 3]).astype(np.float32)
    constants = {
        "largest": np.array(255, np.float32),
        "filters": filters,
        "weights": generator.normal(0, 3, [MAPS, classes]).astype(np.float32),
    }
    if channels == 1:
        constants["axis"] = np.array([1], np.int64)
    graph = helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *shape])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("conv1", TensorProto.FLOAT, ["batch", MAPS, *shape[:2]]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    golden = pictures(form, 2 * classes, seed=2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = np.asarray(session.run(["probabilities"], {"images": golden})[0])
    helper.set_model_props(
        model,
        {
            **TEXTS,
            **metadata_of(form),
            "golden_images": base64.b64encode(golden.tobytes()).decode(),
            "golden_probabilities": base64.b64encode(answers.astype("<f4").tobytes()).decode(),
        },
    )
    onnx.save(model, to)
    return to
