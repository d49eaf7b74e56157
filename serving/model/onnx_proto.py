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
    "Model": [("graph", 7, "Graph", False), ("metadata_props", 14, "Entry", True)],
    "Graph": [("output", 12, "ValueInfo", True)],
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
