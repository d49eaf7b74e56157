"""Data sets by name: found in a folder or downloaded, checked by SHA-256, read and split.

The files come from `DATASET_DIR`, for MNIST from `MNIST_DIR` as well, from an earlier download or from torchvision's
mirrors. MNIST alone has a fallback: its bundled tenth.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.data.catalogue import CATALOGUE, SIDE, Entry, Part, Subset
from pipeline.data.dataset import DataSet, Samples, Task, halfway
from pipeline.data.download import download
from pipeline.data.files import Files
from pipeline.data.moments import moments
from pipeline.data.names import DataError, name_of
from pipeline.data.split import validation_mask

log = logging.getLogger(__name__)

Choice = Literal["auto", "full", "tenth"]


def load(name: str, subset: Choice, dataset_dir: Path | None, mnist_dir: Path | None, download_to: Path) -> DataSet:
    """Find, check and split the data set of a name.

    Args:
        name: one of the catalogue's.
        subset: `full`; `tenth`, which MNIST alone has; or `auto`: the full set, with the tenth as fallback if there is
            one and the download fails.
        dataset_dir: folder that holds `MNIST/raw/…` or `FashionMNIST/raw/…`, as torchvision lays it out, or the four
            files. If given, nothing is downloaded.
        mnist_dir: the same for MNIST alone; it precedes `dataset_dir`.
        download_to: folder of torchvision's layout, searched first and then downloaded to if no other folder is given.

    Raises:
        DataError: there is no such data set or subset, or a file is missing, damaged or of another data set. The
            message names the file and its expected place.
    """
    entry = CATALOGUE[name_of(name)]
    if subset == "tenth":
        return _tenth(entry, "bundled tenth")
    if mnist_dir is not None and name == "mnist":
        return _load(entry, "full", _raw_folder(entry, "MNIST_DIR", mnist_dir), "MNIST_DIR")
    if dataset_dir is not None:
        return _load(entry, "full", _raw_folder(entry, "DATASET_DIR", dataset_dir), "DATASET_DIR")
    raw = download_to / entry.raw
    problem = None if Files(entry, raw).are_complete() else download(entry, download_to)
    if problem is None:
        return _load(entry, "full", raw, "download")
    if entry.tenth is None or subset == "full":
        raise DataError(
            f"{entry.title} is not in {raw} and could not be downloaded ({problem}): put its four files there, "
            f"or set DATASET_DIR to a folder that holds them or {entry.raw}/{_hint(entry)}."
        )
    log.warning("%s could not be downloaded: %s.", entry.title, problem)
    log.warning("USING THE BUNDLED TENTH of MNIST (6,000 digits); expect lower accuracy.")
    return _tenth(entry, "bundled tenth, because MNIST could not be downloaded")


def read(files: Files, part: Part) -> Samples:
    """Read the pictures and labels of one part of a data set, upright, with classes from 0.

    Raises:
        DataError: a file is missing, unreadable, fails its checksum, or holds no pictures or labels of this data set.
    """
    entry = files.entry
    images_file, labels_file = entry.files_of(part)
    images, labels = files.read(images_file), files.read(labels_file)
    if images.dtype != np.uint8 or images.shape != (len(images), SIDE, SIDE) or not len(images):
        raise DataError(f"{files.folder / images_file} holds no pictures of {SIDE} x {SIDE} bytes: fetch it again.")
    path = files.folder / labels_file
    if labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise DataError(f"{path} has no label for each picture of {images_file}: fetch both again.")
    # Only QMNIST's labels have further columns: the writer and the place in NIST's collection.
    classes = labels.reshape(len(labels), -1)[:, 0].astype(np.int64) - entry.first_label
    outside = classes[(classes < 0) | (classes >= len(entry.classes))]
    if len(outside):
        first, last = entry.first_label, entry.first_label + len(entry.classes) - 1
        raise DataError(
            f"{path} has the label {outside[0] + first}, but {entry.title} has {first} to {last}: fetch it again."
        )
    if entry.transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return Samples(torch.from_numpy(images), torch.from_numpy(classes))


def _tenth(entry: Entry, source: str) -> DataSet:
    if entry.tenth is None:
        raise DataError(f"{entry.title} has no bundled tenth: set PIPELINE_SUBSET to full or auto.")
    return _load(entry, "tenth", entry.tenth, source)


def _load(entry: Entry, subset: Subset, folder: Path, source: str) -> DataSet:
    files = Files(entry, folder, subset)
    samples = read(files, "train")
    read_test = partial(read, files, "test")
    read_test()  # for its checks alone: a damaged file must fail here, not after the training
    if files.unchecked:
        log.warning(
            "%s in %s is not checked by SHA-256: that of its files is known only as they are published.",
            entry.title, folder,
        )  # fmt: skip
    held_out = torch.from_numpy(validation_mask(samples.images.numpy(), samples.labels.numpy()))
    train = Samples(samples.images[~held_out], samples.labels[~held_out])
    validation = Samples(samples.images[held_out], samples.labels[held_out])
    log.info(
        "Data: %s %s (%s), %s training and %s validation pictures.",
        subset, entry.title, source, f"{len(train):,}", f"{len(validation):,}",
    )  # fmt: skip
    mean, deviation = entry.moments or moments(train.images)
    task = Task(entry.name, entry.classes, SIDE, SIDE, 1, mean, deviation, dict(entry.preparation))
    minimum = entry.minimum_accuracy or halfway(len(entry.classes))
    return DataSet(task, subset, source, files.digest(), train, validation, read_test, entry.habits, minimum)


def _raw_folder(entry: Entry, variable: str, folder: Path) -> Path:
    """Return the folder of the four files: in torchvision's layout, or `folder` itself."""
    raw = folder / entry.raw
    try:
        if raw.is_dir():
            return raw
        if Files(entry, folder).are_begun():
            return folder
        problem = f"does not hold {entry.raw}/" if folder.is_dir() else "is not a folder"
    except PermissionError:
        problem = "is not readable"
    raise DataError(
        f"{variable}={folder} {problem}: set it to the folder that holds {entry.raw}/ or the four files of "
        f"{entry.title}, or unset it{_hint(entry)}."
    )


def _hint(entry: Entry) -> str:
    return entry.hint and f"; {entry.hint}"
