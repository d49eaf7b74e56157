"""Small files of random pictures in the form in which a data set is published."""

import gzip
import hashlib
import io
import struct
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.catalogue import CATALOGUE, Entry

TRAIN, TEST = 240, 60  # pictures
TYPES = {"uint8": 0x08, "int32": 0x0C, "float32": 0x0D}


@dataclass(frozen=True)
class Made:
    """Files of a data set.

    Attributes:
        entry: the data set's, with the checksums of these files.
        contents: of the unpacked files, by name.
        published: of the files as published, by name.
        images: upright test pictures.
        labels: of the test pictures, from 0.
    """

    entry: Entry
    contents: dict[str, bytes]
    published: dict[str, bytes]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def write(self, folder: Path, form: Literal["plain", "gz", "published"] = "published") -> Path:
        """Write the files to a folder, which is created; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        packed = {f"{name}.gz": gzip.compress(content) for name, content in self.contents.items()}
        for name, content in {"plain": self.contents, "gz": packed, "published": self.published}[form].items():
            (folder / name).write_bytes(content)
        return folder


def idx(array: NDArray[Any]) -> bytes:
    """An IDX file that holds an array."""
    header = struct.pack(f">HBB{array.ndim}I", 0, TYPES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def make(name: str, seed: int = 0) -> Made:
    """Make the files of a data set: 240 training and 60 test pictures, every class in turn."""
    entry, random = CATALOGUE[name], np.random.default_rng(seed)
    contents = {}
    for size, files in ((TRAIN, entry.files[:2]), (TEST, entry.files[2:])):
        images = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = np.arange(size) % len(entry.classes)
        in_file: NDArray[Any] = (labels + (name == "emnist-letters")).astype(np.uint8)
        if name == "qmnist":
            further = random.integers(0, 1000, (size, 7))  # the writer, the place in NIST's collection
            in_file = np.column_stack([labels, further]).astype(np.int32)
        contents[files[0]] = idx(images.transpose(0, 2, 1) if name.startswith("emnist") else images)
        contents[files[1]] = idx(in_file)
    published = {f"{file}.gz": gzip.compress(content) for file, content in contents.items()}
    if name.startswith("emnist"):
        published = {"gzip.zip": _zip({f"gzip/{file}": content for file, content in published.items()})}
    checksums = tuple(sha256(content) for content in published.values())
    unpacked = tuple(sha256(content) for content in contents.values())
    entry = replace(
        entry,
        unpacked={"full": unpacked} if entry.unpacked else {},
        packed=checksums if entry.packed else (),
        archive=("gzip.zip", checksums[0]) if entry.archive else None,
    )
    return Made(entry, contents, published, images, labels)


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()
