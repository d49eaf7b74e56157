"""Promises of each decoder for any bytes, and the real files from which fuzzing starts.

The files in `corpus` were made from test digits with Pillow: one for each format, mode and kind of metadata.
"""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving.decoding.arrays import from_json, from_raw
from serving.decoding.forms import files_of_form
from serving.decoding.pictures import from_pictures
from serving.errors import RequestError

MAX_IMAGES = 8
MAX_PIXELS = 250_000
STATUSES = (400, 413, 415, 422)
FORM = b"multipart/form-data; boundary=line"
PICTURES = (".png", ".jpg", ".webp", ".bmp", ".gif")
SUFFIXES = {"json": (".json",), "raw": (".raw",), "form": (".form",), "picture": PICTURES}

DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "json": lambda content: from_json(content, MAX_IMAGES),
    "raw": lambda content: from_raw(content, MAX_IMAGES),
    "form": lambda content: from_pictures(files_of_form(content, FORM, MAX_IMAGES), MAX_PIXELS),
    "picture": lambda content: from_pictures([content], MAX_PIXELS),
}


def corpus(kind: str) -> list[bytes]:
    """The files of one kind of body, in the order of their names."""
    folder = Path(__file__).with_name("corpus")
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES[kind]]


def check(kind: str, content: bytes) -> bool:
    """Decode; return whether that succeeded. Anything but images or a documented refusal fails."""
    try:
        images = DECODERS[kind](content)
    except RequestError as refused:
        assert refused.status in STATUSES, refused.status
        assert refused.sentence.endswith("."), refused.sentence
        assert len(refused.sentence) < 700, refused.sentence
        assert "\n" not in refused.sentence, refused.sentence
        return False
    assert images.dtype == np.uint8
    assert 1 <= len(images) <= MAX_IMAGES
    assert images.shape == (len(images), 28, 28)
    return True


def with_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG file, so that decoders read on after a change; other files stay as they are."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    parts, position = [content[:8]], 8
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        body = content[position + 4 : position + 8 + length]
        if len(body) < 4 + length:
            break
        parts += [content[position : position + 4], body, struct.pack(">I", zlib.crc32(body))]
        position += 12 + length
    return b"".join([*parts, content[position:]])
