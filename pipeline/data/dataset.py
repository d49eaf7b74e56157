"""MNIST as tensors: found, checked, split.

The full data set comes from `MNIST_DIR`, from an earlier download or from torchvision's mirrors; where none of them
has it, a tenth of it that lies in this package takes its place. Every file is checked by SHA-256 before it is used.

The validation split is decided by the digits themselves: within each class the twelfth with the smallest hash of its
pixels is held out. It does not depend on the order of a file, and the tenth is cut so that its validation digits are
among those of the full set. A model trained on either can thus be judged on the validation split of the other.
"""

import gzip
import hashlib
import logging
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import PipelineError

log = logging.getLogger(__name__)

Choice = Literal["auto", "full", "tenth"]
Name = Literal["full", "tenth"]

IMAGES, LABELS = 2051, 2049  # the magic numbers of IDX files of bytes with three and with one dimension
TENTH = Path(__file__).parent / "tenth"
VALIDATION_SHARE = 12  # one digit in twelve: 5,000 of 60,000
SPLIT_SEED = b"digits"
STALLED_AFTER = 20.0  # seconds without a new byte after which a download is given up

CHECKSUMS: dict[Name, dict[str, str]] = {
    "full": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "tenth": {
        "train-images-idx3-ubyte": "603132995cdf312c7ca9e6e5d656eebe578bc3608bb02e2e3b411dbca47f4b50",
        "train-labels-idx1-ubyte": "b5bdd819d6843f922d8773679bfbb6759db3d75e345f22e2b5f092334215fdd4",
        "t10k-images-idx3-ubyte": "aa181318018c701c0b6db4db6e3def8c0ec13e7f4aa2af834d59308524b71011",
        "t10k-labels-idx1-ubyte": "642dd361128288a1986615f04431acec3fd022ab8042dec8e9cc6c3990d619cb",
    },
}


class DataError(PipelineError):
    """The data set cannot be used; the message is one sentence that says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Digits:
    """Labelled pictures: `images` uint8 [n, 28, 28] (0 background, 255 ink), `labels` int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Digits":
        return Digits(self.images[part], self.labels[part])

    def to(self, device: torch.device) -> "Digits":
        """The same digits on another device."""
        return Digits(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """MNIST, checked and split. `digest` is the SHA-256 of its files' checksums; `source` says where it was found."""

    name: Name
    source: str
    digest: str
    train: Digits
    validation: Digits
    folder: Path

    @property
    def subset(self) -> bool:
        """Whether this is the bundled tenth instead of the full set."""
        return self.name == "tenth"

    def read_test(self) -> Digits:
        """The test digits. Read them once, after every choice has been made."""
        return Digits(*_read_pair(self.folder, "t10k", self.name))


def load(choice: Choice, mnist_dir: Path | None, download_to: Path) -> DataSet:
    """Find, check and split MNIST.

    Args:
        choice: `full`, `tenth`, or `auto`: the full set, and the tenth where it cannot be had.
        mnist_dir: a folder that holds `MNIST/raw/…` as torchvision lays it out; if given, it is used and nothing
            is downloaded.
        download_to: a folder of the same layout, looked into and downloaded to if `mnist_dir` is None.

    Raises:
        DataError: no usable files; the message says which file, and where to put the right one.
    """
    if choice == "tenth":
        return _split("tenth", TENTH, "bundled tenth")
    if mnist_dir is not None:
        return _split("full", _raw_folder(mnist_dir), "MNIST_DIR")
    raw = download_to / "MNIST" / "raw"
    if not _is_complete(raw):
        problem = _download(download_to)
        if problem and choice == "full":
            raise DataError(
                f"MNIST is not in {raw} and could not be downloaded ({problem}): put the four files of MNIST "
                "there, or set MNIST_DIR to a folder that holds MNIST/raw/, or set PIPELINE_DATA=tenth."
            )
        if problem:
            log.warning("MNIST could not be downloaded: %s.", problem)
            log.warning("TRAINING ON THE BUNDLED TENTH of MNIST (6,000 digits); expect lower accuracy.")
            return _split("tenth", TENTH, "bundled tenth, because MNIST could not be downloaded")
    return _split("full", raw, "download")


def validation_mask(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which digits are held out: one in twelve of each class, those with the smallest hash of their pixels.

    Args:
        images: uint8 [n, 28, 28].
        labels: uint8 [n].

    Returns:
        bool [n], true for round(n / 12) digits, apportioned over the classes by largest remainder.
    """
    hashes = np.array(
        [hashlib.blake2b(image.tobytes(), digest_size=8, key=SPLIT_SEED).digest() for image in images],
        dtype="S8",
    ).view(">u8")
    mask = np.zeros(len(labels), dtype=bool)
    sizes = np.bincount(labels, minlength=10)
    for digit, held_out in enumerate(apportion(sizes, round(len(labels) / VALIDATION_SHARE))):
        members = np.flatnonzero(labels == digit)
        mask[members[np.argsort(hashes[members], kind="stable")[:held_out]]] = True
    return mask


def apportion(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Whole shares of `total` in proportion to `sizes` (largest remainder, Hamilton's method)."""
    exact = sizes * total / sizes.sum()
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


def read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file, `path` itself or `path` with `.gz` added, in the shape that its header tells.

    Raises:
        DataError: there is no such file, or it is no IDX file of that kind and of the size that it tells.
    """
    content = _read_bytes(path)
    dimensions = 1 if magic == LABELS else 3
    header = struct.unpack_from(f">{dimensions + 1}I", content.ljust(16, b"\0"))
    size = int(np.prod(header[1:], dtype=np.int64))
    if header[0] != magic or len(content) != 4 * len(header) + size:
        raise DataError(f"{path} is not the IDX file that its name promises: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=4 * len(header)).reshape(header[1:])


def _split(name: Name, folder: Path, source: str) -> DataSet:
    digest = hashlib.sha256("".join(_checked(folder, name)).encode()).hexdigest()
    images, labels = _read_pair(folder, "train", name)
    held_out = torch.from_numpy(validation_mask(images.numpy(), labels.numpy().astype(np.uint8)))
    train = Digits(images[~held_out], labels[~held_out])
    validation = Digits(images[held_out], labels[held_out])
    log.info(
        "Data: %s MNIST (%s), %s digits to train, %s to validate.",
        name, source, f"{len(train):,}", f"{len(validation):,}",
    )  # fmt: skip
    return DataSet(name, source, digest, train, validation, folder)


def _read_pair(folder: Path, part: str, name: Name) -> tuple[Tensor, Tensor]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte", IMAGES)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte", LABELS)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def _checked(folder: Path, name: Name) -> Iterator[str]:
    for file, expected in CHECKSUMS[name].items():
        if hashlib.sha256(_read_bytes(folder / file)).hexdigest() != expected:
            raise DataError(
                f"{folder / file} is truncated or altered (its SHA-256 is wrong): delete it and fetch it again."
            )
        yield expected


def _read_bytes(path: Path) -> bytes:
    compressed = path.with_name(path.name + ".gz")
    try:
        return path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put MNIST's file of that name there, as it is or with .gz.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{compressed} cannot be read ({error}): fetch it again.") from None


def _raw_folder(mnist_dir: Path) -> Path:
    raw = mnist_dir / "MNIST" / "raw"
    try:
        if raw.is_dir():
            return raw
        what = "holds no MNIST/raw/" if mnist_dir.is_dir() else "is not a folder"
    except PermissionError:
        what = "may not be read"
    raise DataError(f"MNIST_DIR={mnist_dir} {what}: set it to the folder in which MNIST/raw/ lies, or unset it.")


def _is_complete(raw: Path) -> bool:
    return all((raw / file).exists() or (raw / f"{file}.gz").exists() for file in CHECKSUMS["full"])


def _download(root: Path) -> str | None:
    """Download MNIST into `root` by torchvision; None, or what kept it from coming.

    torchvision sets no time limit, and a resolver without a network can hang, so the download runs in a thread that
    is given up when nothing new has arrived for `STALLED_AFTER` seconds.
    """
    from torchvision.datasets import MNIST

    log.info("Downloading MNIST to %s (given up after %d s without an answer).", root, STALLED_AFTER)
    failures: list[str] = []

    def fetch() -> None:
        try:
            MNIST(str(root), download=True)
        except Exception as error:  # whatever torchvision's mirrors raise, the reason is reported
            failures.append(" ".join(str(error).split()) or type(error).__name__)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    arrived, since = -1, time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        if size != arrived:
            arrived, since = size, time.monotonic()
        elif time.monotonic() - since > STALLED_AFTER:
            return f"no answer within {STALLED_AFTER:.0f} s"
    return failures[0] if failures else None
