"""IDX, the format of MNIST's files: two zero bytes, type, number of dimensions, their sizes, values; all big-endian.

Source: Yann LeCun's page of MNIST, http://yann.lecun.com/exdb/mnist/.
"""

import numpy as np
from numpy.typing import NDArray

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def parse(content: bytes) -> NDArray[np.generic]:
    """Read an unpacked IDX file.

    Returns:
        A writable array of the shape and type of the header, in the byte order of this machine.

    Raises:
        ValueError: the content is no IDX file, or has another length than its header states; the message is a clause.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES or content[3] == 0:
        raise ValueError("is not an IDX file")
    kind, start = np.dtype(TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError("ends within its header")
    shape = tuple(map(int, np.frombuffer(content, ">u4", content[3], offset=4)))
    stated = start + int(np.prod(shape, dtype=object)) * kind.itemsize
    if len(content) != stated:
        raise ValueError(f"has {len(content):,} bytes, but its header states {stated:,}")
    values = np.frombuffer(bytearray(content), kind, offset=start)
    return values.reshape(shape).astype(kind.newbyteorder("="), copy=False)
