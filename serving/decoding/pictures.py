"""Picture files of any size to MNIST-style images, by the procedure that produced MNIST.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition" (1998),
section III.A: scale the digit into 20x20 pixels with its proportions kept and antialiasing, then move its centre
of mass to the centre of 28x28.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.contract import SIDE, Images
from serving.decoding.headers import Header, orientation, read_header
from serving.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Decoding of one request at most, in estimated nanoseconds for each pixel of its limit: no format takes more, except in
# an unusual form, such as a single column.
MAX_NS_PER_PIXEL = 60
BOX = 20  # pixels of the digit's longer side
# Larger pictures are averaged down to this first: a digit of 20 pixels needs no more, and the later steps are cheap.
WORKING_SIDE = 320
LINES_PER_BAND = 16  # of the smaller picture

# Centre of mass of MNIST's own digits, measured from the middle of the first pixel: 14.0, +-0.3.
CENTRE = 14
FAINTEST = 24  # minimum difference in brightness between ink and background
FAINT = 0.1  # pixels above this share of the strongest ink belong to the digit's extent
NOISIEST = 0.4  # maximum background noise, as a share of the strongest ink
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Grey = NDArray[np.float32]

# `read_pictures` checks a limit of its own before decoding; Pillow would only warn.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Pictures:
    """Picture files of one request within the limits, not yet decoded.

    Attributes:
        headers: of the files, in order.
        seconds: estimate of the time that `decode` takes on one core.
    """

    headers: list[Header]
    seconds: float

    def decode(self) -> Images:
        """Decode the pictures, one digit each, dark on light or light on dark.

        Returns:
            uint8 `[len(headers), 28, 28]`.

        Raises:
            RequestError: 415 not a readable picture, 422 a blank picture.
        """
        images = np.empty((len(self.headers), SIDE, SIDE), np.uint8)
        for index, header in enumerate(self.headers):
            which = _name(index, len(self.headers))
            ink = _ink(_grey(header, which))
            if ink is None:
                raise RequestError(422, f"{which} is blank; expected one digit on a plain background.")
            images[index] = _mnist_form(ink)
        return images


def read_pictures(files: list[bytes], max_pixels: int) -> Pictures:
    """Read the headers of picture files.

    Args:
        files: contents of PNG, JPEG, WebP or BMP files, of any size and mode.
        max_pixels: limit on the sum of all pictures' pixels.

    Raises:
        RequestError: 413 too many pixels or too costly, 415 not a picture.
    """
    headers: list[Header] = []
    total, seconds = 0, 0.0
    for index, content in enumerate(files):
        which = _name(index, len(files))
        try:
            header = read_header(content)
        except ValueError as error:
            raise _unreadable(which) from error
        size = f"{header.width}x{header.height} pixels"
        total += header.width * header.height
        seconds += header.seconds
        if total > max_pixels:
            raise RequestError(
                413,
                f"{which} has {size}, for a total of {total}; "
                f"expected at most {max_pixels} per request (SERVING_MAX_PICTURE_PIXELS).",
            )
        if seconds > max(1, MAX_NS_PER_PIXEL * max_pixels / 1e9):
            raise RequestError(
                413, f"{which} has {size} in a form that takes too long to decode; expected fewer pixels."
            )
        headers.append(header)
    return Pictures(headers, seconds)


def from_pictures(files: list[bytes], max_pixels: int) -> Images:
    """Read and decode picture files: uint8 `[len(files), 28, 28]`; raises as `read_pictures` and `Pictures.decode`."""
    return read_pictures(files, max_pixels).decode()


def _name(index: int, count: int) -> str:
    return f"picture {index + 1} of {count}"


def _unreadable(which: str) -> RequestError:
    return RequestError(415, f"{which} is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file.")


def _grey(header: Header, which: str) -> Grey:
    """Decode to upright, opaque brightness: float32 `[height, width]`, 0 to 255."""
    try:
        with Image.open(io.BytesIO(header.content), formats=FORMATS) as picture:
            if picture.size != (header.width, header.height):
                raise ValueError("a header and a picture of different size")
            # JPEG only: decode at a half, a quarter or an eighth of the size.
            picture.draft("L", (WORKING_SIDE, WORKING_SIDE))
            # WebP's own metadata is still in the file.
            turned = header.orientation if header.orientation > 1 else orientation(picture.info.get("exif", b""))
            return _brightness(picture, UPRIGHT.get(turned))
    except Exception as error:
        # On damaged files, decoders raise more exception types than Pillow documents.
        raise _unreadable(which) from error


def _brightness(picture: Image.Image, upright: Image.Transpose | None) -> Grey:
    if picture.mode.startswith(("I", "F")):  # 16 bits, which Pillow's conversion to "L" clips at 255
        largest = np.max(picture.getextrema())
        return np.asarray(_smaller(picture, "F", upright) / (257 if largest > 255 else 1), np.float32)
    if not picture.has_transparency_data:
        return _smaller(picture, "L", upright)
    layers = _smaller(picture, "RGBA", upright)
    alpha = layers[..., 3] / 255
    shade = layers[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    # A dark drawing gets a white background, a light one a black background.
    background = 255.0 if (shade * alpha).sum() < 127.5 * alpha.sum() else 0.0
    return np.asarray(shade * alpha + background * (1 - alpha), np.float32)


def _smaller(picture: Image.Image, mode: str, upright: Image.Transpose | None) -> Grey:
    """Convert to `mode`, average down to the working size and turn upright: float32 `[height, width, ...]`.

    Works in bands, because each step of Pillow makes a copy: a large picture is in memory only once.
    """
    width, height = picture.size
    factor = max(picture.size) // WORKING_SIDE
    if factor > 1:
        small = Image.new(mode, (-(-width // factor), -(-height // factor)))
        for line in range(0, small.height, LINES_PER_BAND):
            band = picture.crop((0, line * factor, width, min((line + LINES_PER_BAND) * factor, height)))
            small.paste(band.convert(mode).reduce(factor), (0, line))
    else:
        small = picture.convert(mode)
    return np.asarray(small if upright is None else small.transpose(upright), np.float32)


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
