"""Picture files of any size to images in MNIST's form, made the way MNIST was made.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition" (1998),
section III.A: the digit is scaled into 20x20 pixels keeping its proportions, with antialiasing, and its centre
of mass is put at the centre of 28x28.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from serving.contract import SIDE, Images
from serving.decoding.arrays import check_count
from serving.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
BOX = 20
# Larger pictures are first averaged down to this: 20 pixels do not need more, and all that follows is cheap.
WORKING_SIDE = 320

# Where the centre of mass of MNIST's own digits is, counted from the middle of the first pixel: 14.0, +-0.3.
CENTRE = 14
# Brightness by which ink must differ from the ground, shares of the strongest ink that still belong to the
# digit's extent, and that may pass for noise.
FAINTEST = 24
FAINT = 0.1
NOISIEST = 0.4

Grey = NDArray[np.float32]

# Ours is the limit on pixels, checked before decoding; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None
# What is wrong with a form is told to the client that sent it, not to the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def from_form(body: bytes, content_type: bytes, max_images: int, max_pixels: int) -> Images:
    """Decode a multipart form whose field `files` holds one picture or several.

    Returns:
        uint8 `[n, 28, 28]`, n at least 1.

    Raises:
        RequestError: 400 not such a form, 422 no files in it, and what `from_pictures` raises.
    """
    files: list[bytes] = []
    complete: list[bool] = []

    def keep(file: File) -> None:
        if file.field_name != b"files":
            raise RequestError(
                422, f"the form has a field {_text(file.field_name)}; expected picture files in the field files."
            )
        check_count(len(files) + 1, max_images)
        file.file_object.seek(0)
        files.append(file.file_object.read())
        file.close()

    def refuse(field: Field) -> None:
        raise RequestError(
            422, f"the form's field {_text(field.field_name)} holds text; expected picture files in the field files."
        )

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RequestError(400, "the content type has no boundary; let the client set it (curl -F).")
    parts = f"multipart/form-data; boundary={_text(boundary)}"
    try:
        # A part is as large as the body at most, which is in memory already: no temporary files.
        parser = FormParser(
            "multipart/form-data",
            refuse,
            keep,
            on_end=lambda: complete.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        parser.write(body)
        parser.finalize()
        if not complete:
            raise FormParserError("it ends before its last boundary")
    except FormParserError as error:
        raise RequestError(400, f"the body is not {parts}: {str(error).rstrip('.')}.") from error
    if not files:
        raise RequestError(422, "the form holds no file; expected picture files in the field files.")
    return from_pictures(files, max_pixels)


def from_pictures(files: list[bytes], max_pixels: int) -> Images:
    """Decode picture files, one digit each, dark on light or light on dark.

    Args:
        files: contents of PNG, JPEG, WebP or BMP files, of any size and mode.
        max_pixels: pictures that have more in sum are refused before any is decoded.

    Returns:
        uint8 `[len(files), 28, 28]`.

    Raises:
        RequestError: 413 too many pixels, 415 not such a picture, 422 nothing is drawn on it.
    """
    names = [f"picture {index + 1} of {len(files)}" for index in range(len(files))]
    total = 0
    for which, content in zip(names, files, strict=True):
        with _opened(content, which) as picture:
            total += picture.width * picture.height
            if total > max_pixels:
                raise RequestError(
                    413,
                    f"{which} has {picture.width}x{picture.height} pixels, together with those before it {total}; "
                    f"expected at most {max_pixels} in one request (SERVING_MAX_PICTURE_PIXELS).",
                )
    images = np.empty((len(files), SIDE, SIDE), np.uint8)
    for index, (which, content) in enumerate(zip(names, files, strict=True)):
        ink = _ink(_grey(content, which))
        if ink is None:
            raise RequestError(422, f"{which} is blank; expected one digit on an even background.")
        images[index] = _mnist_form(ink)
    return images


@contextmanager
def _opened(content: bytes, which: str) -> Iterator[Image.Image]:
    """Read a picture's header; whatever fails in it, and in decoding within the block, becomes a 415."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            yield picture
    except RequestError:
        raise
    except Exception as error:
        # Decoders raise all sorts of things on damaged files, not only what Pillow documents.
        raise RequestError(
            415, f"{which} is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file."
        ) from error


def _grey(content: bytes, which: str) -> Grey:
    """Decode to brightness, float32 `[height, width]`, 0 to 255, upright, nothing transparent."""
    with _opened(content, which) as picture:
        # Only JPEG can: it then decodes at a half, a quarter or an eighth of the size.
        picture.draft("L", (WORKING_SIDE, WORKING_SIDE))
        return _brightness(ImageOps.exif_transpose(picture))


def _brightness(picture: Image.Image) -> Grey:
    if picture.mode.startswith(("I", "F")):  # 16 bits, which Pillow's own conversion would clip at 255
        values = np.asarray(picture, np.float32)
        return np.asarray(_smaller(Image.fromarray(values / (257 if values.max() > 255 else 1))), np.float32)
    if not picture.has_transparency_data:
        return np.asarray(_smaller(picture.convert("L")), np.float32)
    layers = np.asarray(_smaller(picture.convert("RGBA")), np.float32)
    alpha = layers[..., 3] / 255
    shade = layers[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    # Whatever is drawn on a transparent ground is seen against its opposite.
    ground = 255.0 if (shade * alpha).sum() < 127.5 * alpha.sum() else 0.0
    return np.asarray(shade * alpha + ground * (1 - alpha), np.float32)


def _smaller(picture: Image.Image) -> Image.Image:
    factor = max(picture.size) // WORKING_SIDE
    return picture.reduce(factor) if factor > 1 else picture


def _ink(grey: Grey) -> Grey | None:
    """Separate the digit from the ground: float32 `[height, width]`, 0 = ground, up to 255; None if blank."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = float(np.median(edge))
    darker, lighter = ground - float(grey.min()), float(grey.max()) - ground
    strongest = max(darker, lighter)
    if strongest < FAINTEST:
        return None
    # What the edge shows besides its median is noise of the ground, unless the digit itself touches it.
    noise = min(float(np.percentile(np.abs(edge - ground), 90)), NOISIEST * strongest)
    ink = (ground - grey) if darker > lighter else (grey - ground)
    return np.asarray(np.maximum(ink - noise, 0), np.float32)


def _mnist_form(ink: Grey) -> Images:
    if _is_in_mnist_form(ink):
        return np.rint(ink).astype(np.uint8)
    rows, columns = _extent(ink > FAINT * ink.max())
    digit = Image.fromarray(ink[rows, columns])
    scale = BOX / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    small = np.asarray(digit.resize(size, Image.Resampling.BICUBIC))
    # Thin strokes turn grey when they shrink; MNIST's are at full strength in the middle.
    small = np.clip(small * (255 / small.max()), 0, 255)
    image = np.zeros((SIDE, SIDE), np.float32)
    y, x = _centre(small)
    top = min(max(round(CENTRE - y), 0), SIDE - size[1])
    left = min(max(round(CENTRE - x), 0), SIDE - size[0])
    image[top : top + size[1], left : left + size[0]] = small
    return np.rint(image).astype(np.uint8)


def _is_in_mnist_form(ink: Grey) -> bool:
    if ink.shape != (SIDE, SIDE):
        return False
    rows, columns = _extent(ink > 0)
    if max(rows.stop - rows.start, columns.stop - columns.start) != BOX:
        return False
    return ink.max() > 200 and max(abs(value - CENTRE) for value in _centre(ink)) < 1


def _extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _centre(ink: Grey) -> tuple[float, float]:
    """Centre of mass (row, column), in pixels from the middle of the first."""
    total = ink.sum()
    rows = (ink.sum(1) * np.arange(ink.shape[0])).sum() / total
    columns = (ink.sum(0) * np.arange(ink.shape[1])).sum() / total
    return float(rows), float(columns)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("latin-1")[:80]
