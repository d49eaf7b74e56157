"""Picture files of any size to MNIST-style images, by the procedure that produced MNIST.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition" (1998),
section III.A: scale the digit into 20x20 pixels with its proportions kept and antialiasing, then move its centre
of mass to the centre of 28x28.
"""

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
BOX = 20  # pixels of the digit's longer side
# Larger pictures are averaged down to this first: a digit of 20 pixels needs no more, and the later steps are cheap.
WORKING_SIDE = 320

# Centre of mass of MNIST's own digits, measured from the middle of the first pixel: 14.0, +-0.3.
CENTRE = 14
FAINTEST = 24  # minimum difference in brightness between ink and background
FAINT = 0.1  # pixels above this share of the strongest ink belong to the digit's extent
NOISIEST = 0.4  # maximum background noise, as a share of the strongest ink

Grey = NDArray[np.float32]

# from_pictures checks a limit of its own before decoding; Pillow would only warn.
Image.MAX_IMAGE_PIXELS = None
# The client receives the error of a malformed form; the log does not.
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
        max_pixels: limit on the sum of all pictures' pixels, checked before any is decoded.

    Returns:
        uint8 `[len(files), 28, 28]`.

    Raises:
        RequestError: 413 too many pixels, 415 not a readable picture, 422 a blank picture.
    """
    names = [f"picture {index + 1} of {len(files)}" for index in range(len(files))]
    total = 0
    for which, content in zip(names, files, strict=True):
        with _opened(content, which) as picture:
            total += picture.width * picture.height
            if total > max_pixels:
                raise RequestError(
                    413,
                    f"{which} has {picture.width}x{picture.height} pixels, for a total of {total}; "
                    f"expected at most {max_pixels} per request (SERVING_MAX_PICTURE_PIXELS).",
                )
    images = np.empty((len(files), SIDE, SIDE), np.uint8)
    for index, (which, content) in enumerate(zip(names, files, strict=True)):
        ink = _ink(_grey(content, which))
        if ink is None:
            raise RequestError(422, f"{which} is blank; expected one digit on a plain background.")
        images[index] = _mnist_form(ink)
    return images


@contextmanager
def _opened(content: bytes, which: str) -> Iterator[Image.Image]:
    """Read a picture's header; turn every error in it, and in the block that decodes it, into a 415."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            yield picture
    except RequestError:
        raise
    except Exception as error:
        # On damaged files, decoders raise more exception types than Pillow documents.
        raise RequestError(
            415, f"{which} is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file."
        ) from error


def _grey(content: bytes, which: str) -> Grey:
    """Decode to upright, opaque brightness: float32 `[height, width]`, 0 to 255."""
    with _opened(content, which) as picture:
        # JPEG only: decode at a half, a quarter or an eighth of the size.
        picture.draft("L", (WORKING_SIDE, WORKING_SIDE))
        return _brightness(ImageOps.exif_transpose(picture))


def _brightness(picture: Image.Image) -> Grey:
    if picture.mode.startswith(("I", "F")):  # 16 bits, which Pillow's conversion clips at 255
        values = np.asarray(picture, np.float32)
        return np.asarray(_smaller(Image.fromarray(values / (257 if values.max() > 255 else 1))), np.float32)
    if not picture.has_transparency_data:
        return np.asarray(_smaller(picture.convert("L")), np.float32)
    layers = np.asarray(_smaller(picture.convert("RGBA")), np.float32)
    alpha = layers[..., 3] / 255
    shade = layers[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    # A dark drawing gets a white background, a light one a black background.
    background = 255.0 if (shade * alpha).sum() < 127.5 * alpha.sum() else 0.0
    return np.asarray(shade * alpha + background * (1 - alpha), np.float32)


def _smaller(picture: Image.Image) -> Image.Image:
    factor = max(picture.size) // WORKING_SIDE
    return picture.reduce(factor) if factor > 1 else picture


def _ink(grey: Grey) -> Grey | None:
    """Separate the digit from the background: float32 `[height, width]`, 0 to 255 = full ink; None if blank."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = float(np.median(edge))
    darker, lighter = background - float(grey.min()), float(grey.max()) - background
    strongest = max(darker, lighter)
    if strongest < FAINTEST:
        return None
    # Deviations from the median along the edge are noise, unless the digit touches the edge.
    noise = min(float(np.percentile(np.abs(edge - background), 90)), NOISIEST * strongest)
    ink = (background - grey) if darker > lighter else (grey - background)
    return np.asarray(np.maximum(ink - noise, 0), np.float32)


def _mnist_form(ink: Grey) -> Images:
    if _is_in_mnist_form(ink):
        return np.rint(ink).astype(np.uint8)
    rows, columns = _extent(ink > FAINT * ink.max())
    digit = Image.fromarray(ink[rows, columns])
    scale = BOX / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    small = np.asarray(digit.resize(size, Image.Resampling.BICUBIC))
    # Thin strokes turn grey when scaled down; MNIST's strokes reach full intensity.
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
    """Return the centre of mass (row, column), in pixels from the middle of the first pixel."""
    total = ink.sum()
    rows = (ink.sum(1) * np.arange(ink.shape[0])).sum() / total
    columns = (ink.sum(0) * np.arange(ink.shape[1])).sum() / total
    return float(rows), float(columns)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("latin-1")[:80]
