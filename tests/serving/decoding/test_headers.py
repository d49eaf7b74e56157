"""Files with metadata that is damaged, large or missing, and files that would take minutes or gigabytes."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from serving.decoding.headers import orientation, read_header
from serving.decoding.pictures import from_pictures
from serving.errors import RequestError
from tests.serving.decoding.test_pictures import PIXELS, Digits, decode, encoded, enlarged

MEBIBYTE = 2**20


def block(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def segment(kind: int, content: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes((0xFF, kind)) + struct.pack(">H", len(content) + 2) + content


def with_blocks(png: bytes, *blocks: bytes) -> bytes:
    """Put chunks behind the header."""
    return png[:33] + b"".join(blocks) + png[33:]


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def again(file: bytes, **options: object) -> bytes:
    """Encode a picture as WebP, with metadata."""
    return encoded(Image.open(io.BytesIO(file)), "WEBP", lossless=True, **options)


TEXT = PngInfo()
TEXT.add_text("Comment", "x" * 2 * MEBIBYTE, zip=True)
BROKEN = b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x07\0\xff\xff\xff\xff" * 20  # EXIF with entries outside the block
METADATA: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "huge text": ("PNG", lambda file: with_blocks(file, block(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * MEBIBYTE))))),
    "broken text": ("PNG", lambda file: with_blocks(file, block(b"zTXt", b"a\0\0no zlib"), block(b"iTXt", b"\xff"))),
    "broken exif": ("PNG", lambda file: with_blocks(file, block(b"eXIf", BROKEN))),
    "wrong checksum": ("PNG", lambda file: with_blocks(file, block(b"tEXt", b"a\0b")[:-1] + b"!")),
    "broken profile": ("PNG", lambda file: with_blocks(file, block(b"iCCP", b"a\0\0no zlib"))),
    "short gamma": ("PNG", lambda file: with_blocks(file, block(b"gAMA", b""), block(b"pHYs", b"1"))),
    "animation": ("PNG", lambda file: with_blocks(file, block(b"acTL", b"\0"), block(b"fcTL", b"\0"))),
    "jpeg exif": ("JPEG", lambda file: with_segments(file, segment(0xE1, b"Exif\0\0" + BROKEN))),
    "jpeg profile": ("JPEG", lambda file: with_segments(file, segment(0xE2, b"ICC_PROFILE\0"))),
    "jpeg previews": ("JPEG", lambda file: with_segments(file, segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"))),
    "jpeg photoshop": (
        "JPEG",
        lambda file: with_segments(file, segment(0xED, b"Photoshop 3.0\x008BIM\xff")),
    ),
    "jpeg short marks": ("JPEG", lambda file: with_segments(file, segment(0xE0, b"JFIF\0"), segment(0xEE, b"Adobe"))),
    "jpeg junk": ("JPEG", lambda file: with_segments(file, segment(0xFE, b"") + b"\0\0\xff\xff\xff")),
    "webp exif": ("WEBP", lambda file: again(file, exif=BROKEN)),
    "webp profile": ("WEBP", lambda file: again(file, icc_profile=b"?")),
}


@pytest.mark.parametrize("name", METADATA)
def test_damaged_metadata_does_not_hide_a_good_picture(test_digits: Digits, name: str) -> None:
    kind, change = METADATA[name]
    content = encoded(enlarged(test_digits[0][0]), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode(change(content)), decode(content))


def test_text_of_a_picture_is_not_expanded(test_digits: Digits) -> None:
    content = encoded(test_digits[0][0], pnginfo=TEXT)
    assert len(content) < 10_000
    assert len(read_header(content).content) < 1000
    assert np.array_equal(decode(content), test_digits[0][0])


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_from_exif(order: str) -> None:
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in ((0x010F, 7), (0x0112, 6))]
    exif = start + struct.pack(f"{order}H", 2) + b"".join(entries)
    assert orientation(exif) == orientation(b"Exif\0\0" + exif) == 6
    nine = exif.replace(struct.pack(f"{order}IH", 1, 6), struct.pack(f"{order}IH", 1, 9))
    for damaged in (b"", exif[:10], exif[:-4], exif[::-1], start + b"\xff" * 50, nine):
        assert orientation(damaged) == 1


def png_header(width: int, height: int, colour: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))


def scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last pass."""
    content = encoded(np.pad(np.full((200, 200), 255, np.uint8), 100), "JPEG", progressive=True)
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * count + content[-2:]


def bitmap(compression: int, side: int, data: bytes, colours: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, compression, len(data), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + header + bytes(1024) + data


BOMBS = {
    "one column": (png_header(1, 24_999_999) + block(b"IDAT", zlib.compress(b"")), 413, "takes too long to decode"),
    "many pixels": (png_header(60_000, 60_000), 413, "has 60000x60000 pixels"),
    "many blocks": (png_header(28, 28) + block(b"tEXt", b"") * 100_000, 415, "not a picture"),
    "many segments": (b"\xff\xd8" + segment(0xFE, b"") * 100_000, 415, "not a picture"),
    "junk": (b"\xff\xd8" + b"\xff\0" * MEBIBYTE, 415, "not a picture"),
    "many passes": (scans(1000), 415, "not a picture"),
    "run lengths": (bitmap(1, 2000, b"\x01\x00" * MEBIBYTE), 413, "takes too long to decode"),
    "ends of lines": (bitmap(1, 4900, b"\x01\x01\x00\x00" * 4900), 413, "takes too long to decode"),
    "colours": (bitmap(0, 28, bytes(784), 65_536), 415, "not a picture"),
    "webp canvas": (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2, 413, "16384x16384"),
    "no pixels": (png_header(0, 10), 415, "not a picture"),
    "wrong size": (encoded(np.eye(28, dtype=np.uint8) * 255, "WEBP")[:26] + b"\x10\0\x10\0", 415, "not a picture"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_picture_bombs_are_refused_without_decoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, status, said = BOMBS[name]
    if name != "wrong size":  # only a decoder notices
        monkeypatch.setattr("serving.decoding.pictures.Image.open", None)
    with pytest.raises(RequestError, match=said) as refused:
        from_pictures([content], PIXELS)
    assert refused.value.status == status
    if status == 415 and name != "wrong size":
        with pytest.raises(ValueError, match=r"many|no |damaged"):
            read_header(content)


def test_estimates_order_pictures_by_their_cost() -> None:
    page = np.full((1000, 1000), 255, np.uint8)
    small = read_header(encoded(page[:28, :28])).seconds
    photo = read_header(encoded(Image.fromarray(page).convert("RGB"), "JPEG")).seconds
    grey = read_header(encoded(page)).seconds
    clear = read_header(encoded(Image.fromarray(page).convert("RGBA"))).seconds
    large = read_header(png_header(5000, 5000, 6)).seconds
    assert small < photo < grey < clear < 0.05 < large < 1
