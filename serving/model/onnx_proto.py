"""The parts of onnx.proto that the service reads; protobuf preserves all other fields as unknown fields.

The onnx package, which defines them all, is not in the serve image.
"""

from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
)

# message: (field, number, message of the field or None for bytes, repeated)
_FIELDS: dict[str, list[tuple[str, int, str | None, bool]]] = {
    "Model": [
        ("graph", 7, "Graph", False),
        ("metadata_props", 14, "Entry", True),
        ("functions", 25, "Function", True),
    ],
    "Function": [("node", 7, "Node", True)],
    "Graph": [
        ("node", 1, "Node", True),
        ("initializer", 5, "Tensor", True),
        ("output", 12, "ValueInfo", True),
        ("sparse_initializer", 15, "Sparse", True),
    ],
    "Node": [("attribute", 5, "Attribute", True)],
    "Attribute": [
        ("t", 5, "Tensor", False),
        ("g", 6, "Graph", False),
        ("tensors", 10, "Tensor", True),
        ("graphs", 11, "Graph", True),
        ("sparse_tensor", 22, "Sparse", False),
        ("sparse_tensors", 23, "Sparse", True),
    ],
    "Sparse": [("values", 1, "Tensor", False), ("indices", 2, "Tensor", False)],
    "Tensor": [("external_data", 13, "Entry", True)],
    "ValueInfo": [("name", 1, None, False)],
    "Entry": [("key", 1, None, False), ("value", 2, None, False)],
}


def _model_class() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="digits/onnx.proto", package="digits", syntax="proto2")
    for name, fields in _FIELDS.items():
        kind = file.message_type.add(name=name)
        for field, number, child, repeated in fields:
            kind.field.add(
                name=field,
                number=number,
                type=kinds.TYPE_MESSAGE if child else kinds.TYPE_BYTES,
                type_name=f".digits.{child}" if child else None,
                label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("digits.Model"))


_Model = _model_class()


def parse(content: bytes) -> Any:
    """Parse an ONNX file into a message `Model`; its texts are bytes.

    Raises:
        ValueError: `content` is not a protobuf message.
    """
    model = _Model()
    try:
        model.ParseFromString(content)
    except message.DecodeError as error:
        raise ValueError("is not a protobuf message") from error
    return model


def external_file(content: bytes) -> str | None:
    """Return the path of a file to which a tensor of the ONNX file `content` refers, or None.

    Raises:
        ValueError: `content` is not a protobuf message.
    """
    waiting = [parse(content)]
    while waiting:
        part = waiting.pop()
        if part.DESCRIPTOR.name == "Tensor" and part.external_data:
            paths = [entry.value for entry in part.external_data if entry.key == b"location"]
            return b", ".join(paths).decode(errors="replace")
        for field, value in part.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, message.Message) else value)
    return None
