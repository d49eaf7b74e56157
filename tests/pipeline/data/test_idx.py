import numpy as np
import pytest

from pipeline.data import idx
from tests.pipeline.data import made


@pytest.mark.parametrize("kind", ["uint8", "int32", "float32"])
def test_array_is_read_in_this_machines_byte_order_and_is_writable(kind: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    read = idx.parse(made.idx(array))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype
    read[0] = 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not an IDX file"),
        (b"\0\0\x08", "is not an IDX file"),
        (b"\x89PNG" + bytes(20), "is not an IDX file"),
        (b"\0\0\x07\x01\0\0\0\x01x", "is not an IDX file"),
        (b"\0\0\x08\0x", "is not an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x01", "ends within its header"),
        (b"\0\0\x08\x01\0\0\0\x02x", "has 9 bytes, but its header states 10"),
        (b"\0\0\x08\x01\0\0\0\x02xyz", "has 11 bytes, but its header states 10"),
        (b"\0\0\x0c\x03" + b"\xff" * 12, "has 16 bytes, but its header states 316,912,649,"),
    ],
)
def test_other_content_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        idx.parse(content)
