"""Remove outputs from an ONNX file, so that ONNX Runtime can optimise across the feature maps.

With ONNX Runtime 1.32 on one AVX2 core, two feature maps among the outputs cost 1.4 times the time per image in batches
of 8, even if they are not requested: an output has to be stored, in the plain memory layout.
"""

from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
)

# The part of onnx.proto that leads to the outputs' names; protobuf preserves all other fields as unknown fields.
# The onnx package, which defines them all, is not in the serve image.
_FIELDS = {
    "Model": ("graph", 7, "Graph", False),
    "Graph": ("output", 12, "ValueInfo", True),
    "ValueInfo": ("name", 1, None, False),
}


def _model_class() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="digits/pruning.proto", package="digits", syntax="proto2")
    for name, (field, number, kind, repeated) in _FIELDS.items():
        file.message_type.add(name=name).field.add(
            name=field,
            number=number,
            type=kinds.TYPE_MESSAGE if kind else kinds.TYPE_STRING,
            type_name=f".digits.{kind}" if kind else None,
            label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("digits.Model"))


def keep_outputs(content: bytes, *names: str) -> bytes:
    """Return the ONNX file `content` with `names` as its only outputs, in the order of the file.

    Raises:
        ValueError: `content` is not a protobuf message or lacks one of the outputs.
    """
    model = _model_class()()
    try:
        model.ParseFromString(content)
    except message.DecodeError as error:
        raise ValueError("not a protobuf message") from error
    outputs = model.graph.output
    kept = [output for output in outputs if output.name in names]
    if missing := set(names) - {output.name for output in kept}:
        raise ValueError(f"no output {', '.join(sorted(missing))}")
    del outputs[:]
    outputs.extend(kept)
    result: bytes = model.SerializeToString()
    return result
