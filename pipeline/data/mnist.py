"""MNIST: its files are found or downloaded, checked by SHA-256 and read.

The full set comes from `MNIST_DIR`, an earlier download or torchvision's mirrors. The fallback is the bundled tenth.
"""

import gzip
import hashlib
import logging
import threading
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from pipeline import PipelineError
from pipeline.data.dataset import DataSet, Digits
from pipeline.data.split import validation_mask

log = logging.getLogger(__name__)

Choice = Literal["auto", "full", "tenth"]
Name = Literal["full", "tenth"]

TENTH = Path(__file__).parent / "tenth"
STALL_TIMEOUT = 20.0  # seconds without a new byte after which a download is abandoned

CHECKSUMS: dict[Name, dict[str, str]] = {  # SHA-256 of each unpacked file
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
    """The data set is unusable; the message is one sentence with the remedy."""

    exit_code = 2


def load(choice: Choice, mnist_dir: Path | None, download_to: Path) -> DataSet:
    """Find, check and split MNIST.

    Args:
        choice: `full`, `tenth`, or `auto`: the full set, with the tenth as fallback if the download fails.
        mnist_dir: folder that holds `MNIST/raw/…` as torchvision lays it out. If given, nothing is downloaded.
        download_to: folder of the same layout, searched first and then downloaded to if `mnist_dir` is None.

    Raises:
        DataError: a file is missing or damaged; the message names the file and its expected place.
    """
    if choice == "tenth":
        return _load("tenth", TENTH, "bundled tenth")
    if mnist_dir is not None:
        return _load("full", _raw_folder(mnist_dir), "MNIST_DIR")
    raw = download_to / "MNIST" / "raw"
    problem = None if _is_complete(raw) else _download(download_to)
    if problem is None:
        return _load("full", raw, "download")
    if choice == "full":
        raise DataError(
            f"MNIST is not in {raw} and could not be downloaded ({problem}): put the four files of MNIST "
            "there, or set MNIST_DIR to a folder that holds MNIST/raw/, or set PIPELINE_DATA=tenth."
        )
    log.warning("MNIST could not be downloaded: %s.", problem)
    log.warning("USING THE BUNDLED TENTH of MNIST (6,000 digits); expect lower accuracy.")
    return _load("tenth", TENTH, "bundled tenth, because MNIST could not be downloaded")


def read(folder: Path, part: Literal["train", "t10k"], name: Name) -> Digits:
    """Read the training (`train`) or the test digits (`t10k`) from two files of `folder`, plain or with `.gz`.

    Raises:
        DataError: a file is missing, unreadable, or fails its checksum.
    """
    # The checksum fixes the header (16 or 8 bytes) and the shape. torchvision's reader cannot read .gz files.
    images = bytearray(_read_checked(folder, f"{part}-images-idx3-ubyte", name))
    labels = bytearray(_read_checked(folder, f"{part}-labels-idx1-ubyte", name))
    return Digits(
        torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 28, 28),
        torch.frombuffer(labels, dtype=torch.uint8, offset=8).long(),
    )


def _load(name: Name, folder: Path, source: str) -> DataSet:
    digits = read(folder, "train", name)
    read_test = partial(read, folder, "t10k", name)
    read_test()  # for its checks alone: a damaged file must fail here, not after the training
    held_out = torch.from_numpy(validation_mask(digits.images.numpy(), digits.labels.numpy()))
    train = Digits(digits.images[~held_out], digits.labels[~held_out])
    validation = Digits(digits.images[held_out], digits.labels[held_out])
    log.info(
        "Data: %s MNIST (%s), %s training and %s validation digits.",
        name, source, f"{len(train):,}", f"{len(validation):,}",
    )  # fmt: skip
    digest = hashlib.sha256("".join(CHECKSUMS[name].values()).encode()).hexdigest()
    return DataSet(name, source, digest, train, validation, read_test, subset=name == "tenth")


def _read_checked(folder: Path, file: str, name: Name) -> bytes:
    plain, packed = folder / file, folder / f"{file}.gz"
    try:
        content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{plain} is missing: put MNIST's file of that name there, plain or with .gz.") from None
    except PermissionError as error:
        raise DataError(f"{error.filename} is not readable: correct its owner or its mode.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{plain} or its .gz cannot be read ({error}): fetch it again.") from None
    if hashlib.sha256(content).hexdigest() != CHECKSUMS[name][file]:
        raise DataError(f"{plain} is truncated or altered (its SHA-256 is wrong): delete it and fetch it again.")
    return content


def _raw_folder(mnist_dir: Path) -> Path:
    raw = mnist_dir / "MNIST" / "raw"
    try:
        if raw.is_dir():
            return raw
        problem = "does not hold MNIST/raw/" if mnist_dir.is_dir() else "is not a folder"
    except PermissionError:
        problem = "is not readable"
    raise DataError(f"MNIST_DIR={mnist_dir} {problem}: set it to the folder that holds MNIST/raw/, or unset it.")


def _is_complete(raw: Path) -> bool:
    return all((raw / file).exists() or (raw / f"{file}.gz").exists() for file in CHECKSUMS["full"])


def _download(root: Path) -> str | None:
    """Download MNIST into `root` by torchvision; return None, or why the download failed.

    torchvision sets no timeout. A socket timeout would apply per address of each mirror and not to the resolver,
    which can hang without a network. The download therefore runs in a thread, abandoned after `STALL_TIMEOUT` seconds
    without a new byte.
    """
    from torchvision.datasets import MNIST

    log.info("Downloading MNIST to %s (timeout: %d s without progress).", root, STALL_TIMEOUT)
    failures: list[str] = []

    def fetch() -> None:
        try:
            MNIST(str(root), download=True)
        except Exception as error:  # the mirrors raise many kinds; each is reported
            failures.append(" ".join(str(error).split()) or type(error).__name__)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    downloaded, since = -1, time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        if size != downloaded:
            downloaded, since = size, time.monotonic()
        elif time.monotonic() - since > STALL_TIMEOUT:
            return f"no progress within {STALL_TIMEOUT:.0f} s"
    return failures[0] if failures else None
