"""Changes to a good model that make it take time or memory without end."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto], None]
ENDLESS = 10**12


def rename_output(model: onnx.ModelProto, name: str, to: str) -> None:
    """Let the graph compute `to` in place of `name`; the declared output keeps its name."""
    for node in model.graph.node:
        node.input[:] = [to if each == name else each for each in node.input]
        node.output[:] = [to if each == name else each for each in node.output]


def loop_over(output: str, times: int = ENDLESS) -> Change:
    """Pass one output through a loop that changes nothing, `times` times."""

    def change(model: onnx.ModelProto) -> None:
        rename_output(model, output, "before")
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["more"], ["more_out"]),
                helper.make_node("Identity", ["value"], ["value_out"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("more", TensorProto.BOOL, []),
                helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("more_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("value_out", TensorProto.FLOAT, None),
            ],
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(times, np.int64), "times"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
        model.graph.node.append(helper.make_node("Loop", ["times", "always", "before"], [output], body=body))

    return change


def expand(elements: int) -> Change:
    """Add the sum of a tensor of `elements` zeros, made from a few bytes, to the probabilities."""

    def change(model: onnx.ModelProto) -> None:
        rename_output(model, "probabilities", "before")
        model.graph.initializer.append(numpy_helper.from_array(np.array([elements], np.int64), "size"))
        model.graph.node.extend(
            [
                helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
                helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
                helper.make_node("Add", ["before", "zero"], ["probabilities"]),
            ]
        )

    return change
