"""Headers of picture files: size and decoding cost, read before any decoder runs, and the file without its metadata.

Pillow opens a file by reading all of its metadata. A damaged text or EXIF block then hides a good picture, and a file
of many tiny blocks takes seconds. WebP allocates the whole canvas when it is opened. Everything that is not needed for
the pixels is therefore left out here; only the orientation is kept.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

# Blocks of a file: this many, and one more for each of these bytes. Encoders write blocks of kibibytes.
BLOCKS = 64
BYTES_PER_BLOCK = 256
# Passes over a progressive JPEG; encoders need about ten. A pass takes 80 bytes of the file and a visit to every pixel.
SCANS = 64
COLOURS = 256  # in the palette of a BMP file

# Nanoseconds of one x86-64 core, from benchmarks/serving/picture_costs.py (Pillow 13.0, 2026-11-28), rounded up.
NS_PER_PICTURE = 300_000
NS_PER_BLOCK = 5_000
NS_PER_LINE = 60
NS_PER_PNG_PIXEL, NS_PER_PNG_SAMPLE = 2, 6  # each byte of a pixel
NS_PER_JPEG_PIXEL, NS_PER_JPEG_BYTE = 2, 15
NS_PER_SCAN_PIXEL, NS_PER_SCANS_BYTE = 0.4, 60  # of a progressive JPEG, in addition
NS_PER_WEBP_PIXEL, NS_PER_WEBP_BYTE = 20, 50
NS_PER_BMP_PIXEL = 8
NS_PER_RUN_LENGTH_PIXEL, NS_PER_RUN_LENGTH_BYTE = 100, 1_000  # decoded by Pillow in Python

PNG, JPEG, BMP, RIFF, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF", b"WEBP"
# Blocks that determine the pixels; all others are left out.
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers that start a frame and hold its size
JPEG_COLOURS = (b"JFIF\0", b"Adobe")  # the application's blocks that change how colours are read
JPEG_COMMENT, JPEG_SCAN = 0xFE, 0xDA
JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
ORIENTATION = 0x0112  # EXIF's tag


@dataclass(frozen=True)
class Header:
    """Size, orientation and cost that a picture file declares.

    Attributes:
        content: the file without metadata.
        width, height: in pixels, at least 1; not yet compared with the data.
        orientation: EXIF's number from 1 to 8; 1 is upright.
        seconds: estimate of the time that decoding takes on one core.
    """

    content: bytes
    width: int
    height: int
    orientation: int
    seconds: float


def read_header(content: bytes) -> Header:
    """Read the header of a PNG, JPEG, WebP or BMP file.

    Raises:
        ValueError: another format, a damaged header, or more blocks, passes or colours than such a picture needs.
    """
    try:
        for mark, read in FORMATS.items():
            if content.startswith(mark):
                header = read(content)
                break
        else:
            raise ValueError("another format")
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("a damaged header") from error
    if header.width < 1 or header.height < 1:
        raise ValueError("no pixels")
    return header


def orientation(exif: bytes) -> int:
    """Return EXIF's orientation, 1 to 8; 1 if there is none or the block is damaged.

    Pillow's reader reads all entries, warns or raises on damaged ones, and takes seconds for many.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (begin,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, begin)
        for index in range(min(count, BLOCKS)):
            tag, _kind, _count, value = struct.unpack_from(f"{order}HHIH", exif, begin + 2 + 12 * index)
            if tag == ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _png(content: bytes) -> Header:
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, len(PNG) + 8)
    if content[12:16] != b"IHDR":
        raise ValueError("no header")
    kept, turned, position, blocks = [PNG], 1, len(PNG), 0
    while position < len(content):
        blocks += 1
        _check_blocks(blocks, content)
        (length,) = struct.unpack_from(">I", content, position)
        kind, end = content[position + 4 : position + 8], position + 12 + length
        if kind in PNG_KEPT:
            kept.append(content[position:end])
        elif kind == b"eXIf":
            turned = orientation(content[position + 8 : end - 4])
        position = end
        if kind == b"IEND":
            break
    sample_bytes = PNG_CHANNELS[colour] * (2 if depth == 16 else 1)
    # An interlaced picture has seven passes with short lines.
    lines = height * (4 if interlaced else 1)
    per_pixel = NS_PER_PNG_PIXEL + NS_PER_PNG_SAMPLE * sample_bytes
    nanoseconds = NS_PER_BLOCK * blocks + NS_PER_LINE * lines + per_pixel * width * height
    return _header(b"".join(kept), width, height, turned, nanoseconds)


def _jpeg(content: bytes) -> Header:
    kept, turned, position, blocks = [content[:2]], 1, 2, 0
    width = height = 0
    while True:
        blocks += 1
        _check_blocks(blocks, content)
        marker = JPEG_MARKER.search(content, position)
        if marker is None:
            raise ValueError("no picture")
        kind, position = marker[1][0], marker.start()
        if kind == 0x01 or 0xD0 <= kind <= 0xD9:  # markers without content
            position += 2
            continue
        if kind == JPEG_SCAN:
            break
        (length,) = struct.unpack_from(">H", content, position + 2)
        block = content[position : position + 2 + length]
        position += 2 + length
        if kind in JPEG_SIZES:
            if width:
                raise ValueError("two pictures")
            height, width = struct.unpack_from(">HH", block, 5)
        if kind == 0xE1 and block[4:10] == b"Exif\0\0" and turned == 1:
            turned = orientation(block[4:])
        application = 0xE0 <= kind <= 0xEF
        if kind != JPEG_COMMENT and (not application or (block[4:9] in JPEG_COLOURS and len(block) >= 16)):
            kept.append(block)
    kept.append(content[position:])
    stripped = b"".join(kept)
    scans = stripped.count(bytes((0xFF, JPEG_SCAN)))  # within the pixels' data, 0 follows 0xFF
    if scans > SCANS:
        raise ValueError("too many passes")
    nanoseconds: float = NS_PER_BLOCK * blocks + NS_PER_JPEG_PIXEL * width * height + NS_PER_JPEG_BYTE * len(stripped)
    if scans > 1:
        nanoseconds += NS_PER_SCAN_PIXEL * scans * width * height + NS_PER_SCANS_BYTE * len(stripped)
    return _header(stripped, width, height, turned, nanoseconds)


def _webp(content: bytes) -> Header:
    kind = content[12:16]
    if content[8:12] != WEBP:
        raise ValueError("another format")
    if kind == b"VP8X":
        width, height = (int.from_bytes(content[begin : begin + 3], "little") + 1 for begin in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        raise ValueError("another format")
    nanoseconds = NS_PER_WEBP_PIXEL * width * height + NS_PER_WEBP_BYTE * len(content)
    return _header(content, width, height, 1, nanoseconds)


def _bmp(content: bytes) -> Header:
    (size,) = struct.unpack_from("<I", content, 14)
    compression = colours = 0
    if size == 12:
        width, height, _planes, depth = struct.unpack_from("<HHHH", content, 18)
    else:
        width, height, _planes, depth, compression = struct.unpack_from("<iiHHI", content, 18)
        (colours,) = struct.unpack_from("<I", content, 46)
    if depth <= 8 and colours > COLOURS:
        raise ValueError("too many colours")
    height = abs(height)
    nanoseconds = NS_PER_BMP_PIXEL * width * height
    if compression in (1, 2):
        nanoseconds += NS_PER_RUN_LENGTH_PIXEL * width * height + NS_PER_RUN_LENGTH_BYTE * len(content)
    return _header(content, width, height, 1, nanoseconds)


def _header(content: bytes, width: int, height: int, turned: int, nanoseconds: float) -> Header:
    return Header(content, width, height, turned, (NS_PER_PICTURE + nanoseconds) / 1e9)


def _check_blocks(blocks: int, content: bytes) -> None:
    if blocks > BLOCKS + len(content) // BYTES_PER_BLOCK:
        raise ValueError("too many blocks")


FORMATS: dict[bytes, Callable[[bytes], Header]] = {PNG: _png, JPEG: _jpeg, RIFF: _webp, BMP: _bmp}
