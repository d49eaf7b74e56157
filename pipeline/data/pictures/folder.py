"""A folder of pictures as a data set: one folder for each class, split by content."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.dataset import DataSet, Samples, Task, halfway
from pipeline.data.names import FOLDER, DataError, joined, name_of
from pipeline.data.pictures.division import HELD_OUT, divide
from pipeline.data.pictures.findings import FolderReport
from pipeline.data.pictures.listing import SPLITS, TEST, TRAIN, VALIDATION, File, Listing, scan
from pipeline.data.pictures.prepared import Prepared, prepare
from pipeline.recipes import Augmentation, Habits
from preparation import check

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 8, 64  # pixels
UNREADABLE = 0.05  # largest share of files that cannot be read
HASH_KEY = b"digits"
# Training takes about as many steps as `default` does on the bundled tenth of MNIST, but no more than 80 epochs.
PICTURES_OF_ALL_EPOCHS, MOST_EPOCHS = 240_000, 80
# Half as much as for digits. The shift is a tenth of the side: what a picture shows is seldom in its centre.
AUGMENTATION = Augmentation(rotation=5, scale=0.075, shear=4)
SMALLEST_DEVIATION = 0.01  # a channel that is nearly constant would be blown up


def load(folder: Path, size: int, preparation: dict[str, Any], cache: Path, flip: bool = False) -> DataSet:
    """Read, check and split a folder of pictures.

    Args:
        folder: holds one folder of pictures for each class, or `train/`, `validation/` and `test/` with these folders.
        size: height and width to which the pictures are brought, 8 to 64 pixels.
        preparation: `{"name": "fit", "background": "edge"}`, for example (see `preparation`).
        cache: folder in which the prepared pictures are kept.
        flip: whether training may mirror the pictures.

    Raises:
        DataError: the folder is unusable; the message names the file or the class and the remedy.
    """
    try:
        check(preparation, 1)
    except ValueError as error:
        raise DataError(f"{folder} cannot be prepared: {error}.") from None
    if not SMALLEST <= size <= LARGEST:
        raise DataError(f"{folder} cannot be prepared to {size} pixels: choose a size from {SMALLEST} to {LARGEST}.")
    listing = scan(folder)
    _check_counts(listing)
    prepared = prepare(listing, size, preparation, cache)
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=16, key=HASH_KEY).digest() for image in prepared.images]
    report = examine(listing, prepared, hashes)
    report.log()
    _check_readable(listing, report)
    parts = _divide(listing, prepared, hashes)
    colour = prepared.images.ndim == 4
    mean, deviation = _moments(parts[TRAIN].images.numpy())
    channels = 3 if colour else 1
    name = name_of(f"{FOLDER}{folder}")
    task = Task(name, listing.classes, size, size, channels, mean, deviation, preparation)
    log.info(
        "Data: %s, %s training, %s validation and %s test pictures, %s, %dx%d pixels.",
        task.dataset, *(f"{len(parts[split]):,}" for split in SPLITS), "colour" if colour else "grey", size, size,
    )  # fmt: skip
    epochs = min(max(PICTURES_OF_ALL_EPOCHS // len(parts[TRAIN]), 1), MOST_EPOCHS)
    return DataSet(
        task,
        "full",
        str(folder),
        _digest(task, parts),
        parts[TRAIN],
        parts[VALIDATION],
        lambda: parts[TEST],
        Habits(epochs, replace(AUGMENTATION, shift=size / 10, flip=flip)),
        halfway(len(listing.classes)),
    )


def examine(listing: Listing, prepared: Prepared, hashes: Sequence[bytes]) -> FolderReport:
    """Describe what was found and read; `hashes` has the digest of each prepared picture."""
    counts = Counter(file.label for file in prepared.files)
    known: dict[bytes, File] = {}
    pairs = [(known.setdefault(digest, file), file) for digest, file in zip(hashes, prepared.files, strict=True)]
    sizes = sorted(prepared.sizes, key=lambda size: size[0] * size[1]) or [(0, 0)]
    return FolderReport(
        listing.folder,
        {name: counts[label] for label, name in enumerate(listing.classes)},
        sizes[0],
        sizes[-1],
        prepared.unreadable,
        tuple((one.path, other.path) for one, other in pairs if one.label != other.label),
        listing.loose,
    )


def _check_readable(listing: Listing, report: FolderReport) -> None:
    if len(report.unreadable) > UNREADABLE * len(listing.files):
        path, reason = report.unreadable[0]
        raise DataError(
            f"{len(report.unreadable)} of {len(listing.files)} files in {listing.folder} cannot be read, more than "
            f"{UNREADABLE:.0%} ({path} {reason}): replace or remove them."
        )


def _check_counts(listing: Listing) -> None:
    """Check, before anything is read, that each class has enough files in each split that the folder has."""
    counts = Counter((file.split, file.label) for file in listing.files)
    for split in listing.splits:
        needed = 1 + sum(other not in listing.splits for other in HELD_OUT) if split == TRAIN else 1
        for label, name in enumerate(listing.classes):
            if counts[split, label] < needed:
                place = listing.folder if listing.splits == (TRAIN,) else listing.folder / split
                raise DataError(
                    f"The class {name!r} in {place} has too few pictures ({counts[split, label]}; at least {needed}): "
                    "add some, or remove the class."
                )


def _divide(listing: Listing, prepared: Prepared, hashes: Sequence[bytes]) -> dict[str, Samples]:
    labels = np.array([file.label for file in prepared.files], np.int64)
    splits = np.array(divide(labels.tolist(), [file.split for file in prepared.files], hashes, listing.splits))
    dropped = sorted(file.path for file, split in zip(prepared.files, splits, strict=True) if not split)
    if dropped:
        listed = joined(dropped)
        log.warning("Left out: %s copies of pictures in a held-out split (%s).", f"{len(dropped):,}", listed)
    for label, name in enumerate(listing.classes):
        own = labels == label
        if set(SPLITS) - set(splits[own]):
            distinct = len({digest for digest, is_own in zip(hashes, own, strict=True) if is_own})
            raise DataError(
                f"The class {name!r} in {listing.folder} has too few readable pictures without copies ({distinct}) "
                "for training, validation and test: add some, or remove the class."
            )
    images, numbers = torch.from_numpy(prepared.images), torch.from_numpy(labels)
    masks = {split: torch.from_numpy(splits == split) for split in SPLITS}
    return {split: Samples(images[mask], numbers[mask]) for split, mask in masks.items()}


def _moments(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1], rounded to 4 decimals."""
    values = np.arange(256) / 255
    means, deviations = list[float](), list[float]()
    for channel in np.moveaxis(images, 3, 0) if images.ndim == 4 else [images]:
        shares = sum(np.bincount(image.ravel(), minlength=256) for image in channel) / channel.size
        mean = float(shares @ values)
        means.append(round(mean, 4))
        deviations.append(max(round(float(shares @ (values - mean) ** 2) ** 0.5, 4), SMALLEST_DEVIATION))
    return tuple(means), tuple(deviations)


def _digest(task: Task, parts: Mapping[str, Samples]) -> str:
    digest = hashlib.sha256(json.dumps([task.dataset, task.classes, task.preparation], sort_keys=True).encode())
    for split in SPLITS:
        digest.update(f"{split} {tuple(parts[split].images.shape)}".encode())
        digest.update(parts[split].images.numpy().data)
        digest.update(parts[split].labels.numpy().data)
    return digest.hexdigest()
