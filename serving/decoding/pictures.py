"""Picture files of any size to the form that the model takes; `preparation` has the procedures."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from preparation import UPRIGHT, BlankError, prepare
from serving.contract import MNIST, Form, Images
from serving.decoding.headers import Header, orientation, read_header
from serving.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Decoding of one request at most, in estimated nanoseconds for each pixel of its limit: no format takes more, except in
# an unusual form, such as a single column.
MAX_NS_PER_PIXEL = 60

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

    def decode(self, form: Form = MNIST) -> Images:
        """Decode the pictures and bring them to the form of the model.

        Returns:
            uint8 `[len(headers), *form.shape]`.

        Raises:
            RequestError: 415 not a readable picture, 422 a blank picture.
        """
        images = np.empty((len(self.headers), *form.shape), np.uint8)
        for index, header in enumerate(self.headers):
            which = _name(index, len(self.headers))
            try:
                images[index] = _prepared(header, form, which)
            except BlankError as error:
                what = "digit" if form.has_digits else "drawing"
                raise RequestError(422, f"{which} is blank; expected one {what} on a plain background.") from error
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


def from_pictures(files: list[bytes], max_pixels: int, form: Form = MNIST) -> Images:
    """Read and decode picture files; returns and raises as `read_pictures` and `Pictures.decode`."""
    return read_pictures(files, max_pixels).decode(form)


def _name(index: int, count: int) -> str:
    return f"picture {index + 1} of {count}"


def _unreadable(which: str) -> RequestError:
    return RequestError(415, f"{which} is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file.")


def _prepared(header: Header, form: Form, which: str) -> Images:
    """Decode one picture to uint8 `[height, width]` or `[height, width, 3]`; raises BlankError, RequestError."""
    try:
        with Image.open(io.BytesIO(header.content), formats=FORMATS) as picture:
            if picture.size != (header.width, header.height):
                raise ValueError("a header and a picture of different size")
            # WebP's own metadata is still in the file.
            turned = header.orientation if header.orientation > 1 else orientation(picture.info.get("exif", b""))
            return prepare(picture, form, UPRIGHT.get(turned))
    except BlankError:
        raise
    except Exception as error:
        # On damaged files, decoders raise more exception types than Pillow documents.
        raise _unreadable(which) from error
