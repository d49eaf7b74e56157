"""Cut the bundled tenth out of the full MNIST: `python -m pipeline.data.tenth.cut MNIST_DIR FOLDER`.

Within each class, digits are drawn by a hash of their pixels, so that the cut is reproducible. One training digit in
twelve is a validation digit of the full set, and remains a validation digit in the tenth.
"""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data import named
from pipeline.data.catalogue import CATALOGUE
from pipeline.data.files import Files
from pipeline.data.split import VALIDATION_SHARE, apportion, validation_mask

DRAW_SEED = b"a tenth of MNIST"
IMAGES, LABELS = 2051, 2049  # magic numbers of IDX files with bytes in three dimensions and in one


def cut(raw: Path, folder: Path) -> None:
    """Read the four files of the full MNIST in `raw` and write a tenth of each, compressed, to `folder`."""
    files = Files(CATALOGUE["mnist"], raw)
    for part in ("train", "test"):
        digits = named.read(files, part)
        images, labels = digits.images.numpy(), digits.labels.numpy()
        per_class = apportion(np.bincount(labels, minlength=10), len(labels) // 10)
        if part == "train":
            held_out = validation_mask(images, labels)
            held_out_per_class = apportion(per_class, round(per_class.sum() / VALIDATION_SHARE))
            chosen = _draw(images, labels, ~held_out, per_class - held_out_per_class)
            chosen = np.sort(np.append(chosen, _draw(images, labels, held_out, held_out_per_class)))
        else:
            chosen = _draw(images, labels, np.ones(len(labels), dtype=bool), per_class)
        images_file, labels_file = files.entry.files_of(part)
        _write(folder / f"{images_file}.gz", IMAGES, images[chosen])
        _write(folder / f"{labels_file}.gz", LABELS, labels[chosen].astype(np.uint8))


def _draw(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    eligible: NDArray[np.bool_],
    per_class: NDArray[np.int64],
) -> NDArray[np.int64]:
    chosen: list[np.int64] = []
    for digit, count in enumerate(per_class):
        members = np.flatnonzero(eligible & (labels == digit)).astype(np.int64)
        chosen += sorted(
            members, key=lambda i: hashlib.blake2b(images[i].tobytes(), key=DRAW_SEED).digest()
        )[:count]  # fmt: skip
    return np.sort(np.array(chosen))


def _write(path: Path, magic: int, array: NDArray[np.uint8]) -> None:
    header = struct.pack(f">{array.ndim + 1}I", magic, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    cut(Path(sys.argv[1]) / "MNIST" / "raw", Path(sys.argv[2]))
