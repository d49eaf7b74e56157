"""The pictures of a folder, decoded and brought to one form, and their cache."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.logging import RichHandler
from rich.progress import track

import preparation as procedures
from pipeline.data.pictures.listing import File, Listing
from preparation import UPRIGHT, BlankError, Form, PlainForm

log = logging.getLogger(__name__)

MOST_PIXELS = 50_000_000  # of one picture
MOST_THREADS = 8  # each may hold a picture of MOST_PIXELS
SECONDS_BETWEEN_LINES = 5.0  # of the log, off a terminal
ORIENTATION = 0x0112  # EXIF's tag
PASSING = "cannot be read"  # begins a reason that lies outside the file, and may be gone the next time

# `_read` checks a limit of its own before decoding, and names the size.
Image.MAX_IMAGE_PIXELS = None

Size = tuple[int, int]  # width, height
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """The readable pictures of a folder.

    Attributes:
        images: uint8 [n, size, size], or [n, size, size, 3] if one of the pictures has colour.
        files: the file of each.
        sizes: width and height of each, as in its file.
        unreadable: path and reason of each file that is not in `images`.
    """

    images: NDArray[np.uint8]
    files: tuple[File, ...]
    sizes: tuple[Size, ...]
    unreadable: tuple[tuple[str, str], ...]


def prepare(listing: Listing, size: int, preparation: dict[str, Any], cache: Path) -> Prepared:
    """Read all pictures of a folder, or take them from the cache if neither files nor code have changed.

    Args:
        listing: the files.
        size: height and width of the result.
        preparation: `stroke` or `fit` with its parameters, checked; `stroke` makes all pictures grey.
        cache: folder of the cache, with one file for each folder of pictures and form.
    """
    wanted = [str(listing.folder.resolve()), size, preparation]
    place = cache / f"folder-{_sha256(wanted)[:16]}.npz"
    key = _sha256([*wanted, [asdict(file) for file in listing.files], _code()])
    read = _from_cache(place, key)
    if read:
        log.info("The pictures are as before: prepared ones are taken from %s.", place)
    else:
        read = _read_all(listing, PlainForm(size, size, 1 if preparation["name"] == "stroke" else 3, preparation))
        if not any(problem.startswith(PASSING) for problem in read[2]):
            _to_cache(place, key, read)
    images, sizes, problems = read
    pairs = list(zip(listing.files, problems, strict=True))
    return Prepared(
        images,
        tuple(file for file, problem in pairs if not problem),
        tuple((int(width), int(height)) for width, height in sizes),
        tuple((file.path, problem) for file, problem in pairs if problem),
    )


# Images and sizes of the readable files, and of every file the reason why it is not readable, empty if it is.
Read = tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]


def _read_all(listing: Listing, form: Form) -> Read:
    Image.init()  # loads Pillow's formats, before threads do
    images = np.empty((len(listing.files), *procedures.shape(form)), np.uint8)
    sizes, problems = list[Size](), list[str]()
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        results = pool.map(partial(_read, listing.folder, form), listing.files)
        for result in _with_progress(results, len(listing.files)):
            if isinstance(result, str):
                problems.append(result)
            else:
                images[len(sizes)], size = result
                sizes.append(size)
                problems.append("")
    images = images[: len(sizes)]
    if form.channels > 1 and (images[..., 0] == images[..., 1]).all() and (images[..., 0] == images[..., 2]).all():
        images = np.ascontiguousarray(images[..., 0])  # preparing a grey picture as a grey one has the same result
    return images, np.array(sizes, np.int64).reshape(-1, 2), problems


def _read(folder: Path, form: Form, file: File) -> tuple[NDArray[np.uint8], Size] | str:
    """Prepare one picture: its pixels, and its size in the file; or the reason why it cannot be read, as a clause."""
    if file.problem:
        return file.problem
    try:
        # Not EPS, for which Pillow runs another program.
        with Image.open(folder / file.path, formats=[name for name in Image.ID if name != "EPS"]) as picture:
            size = picture.size
            if size[0] * size[1] > MOST_PIXELS:
                return f"has {size[0]}x{size[1]} pixels, more than {MOST_PIXELS // 10**6} million"
            return procedures.prepare(picture, form, UPRIGHT.get(_orientation(picture))), size
    except Exception as error:  # on damaged files, decoders raise more exception types than Pillow documents
        return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is not a picture that Pillow can read"
    if isinstance(error, BlankError):
        return "is blank"
    if isinstance(error, MemoryError):
        return f"{PASSING} (not enough memory)"
    if isinstance(error, OSError) and error.errno:
        return f"{PASSING} ({error.strerror})"
    return f"is damaged ({' '.join(str(error).split()) or type(error).__name__})"


def _orientation(picture: Image.Image) -> int:
    if picture.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata do not hide a good picture
        return 1


def _with_progress(results: Iterable[Result], total: int) -> Iterator[Result]:
    """Show the progress: a bar on the terminal of the log, or a line of the log every few seconds."""
    consoles = [handler.console for handler in logging.getLogger().handlers if isinstance(handler, RichHandler)]
    if consoles:
        yield from track(results, "reading pictures", total, console=consoles[0], transient=True)
        return
    last = time.monotonic()
    for number, result in enumerate(results, 1):
        yield result
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES and number < total:
            log.info("Read %s of %s pictures.", f"{number:,}", f"{total:,}")
            last = time.monotonic()


def _from_cache(place: Path, key: str) -> Read | None:
    """Return what the cache holds for the key; None if that is nothing, or damaged."""
    if not place.exists():
        return None
    try:
        with place.open("rb") as file, np.load(file) as kept:  # compares checksums
            if str(kept["key"]) != key:
                return None
            return kept["images"], kept["sizes"], json.loads(str(kept["problems"]))
    except Exception as error:  # a damaged file can raise almost anything
        log.warning("%s is damaged (%s): the pictures are read again.", place, error)
        return None


def _to_cache(place: Path, key: str, read: Read) -> None:
    images, sizes, problems = read
    unfinished = place.with_suffix(f".{os.getpid()}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, key=key, images=images, sizes=sizes, problems=json.dumps(problems))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place)  # atomic
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        log.warning("The prepared pictures cannot be kept (%s); the next run reads them again.", error)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _code() -> str:
    """Return a digest of the code that prepares, and of Pillow's version."""
    sources = sorted(Path(procedures.__file__).parent.glob("*.py")), [Path(__file__)]
    return _sha256([PIL.__version__, [file.read_text(encoding="utf-8") for files in sources for file in files]])
