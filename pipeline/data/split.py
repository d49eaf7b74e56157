"""The validation split, decided by the pixels of each picture.

Within each class, the twelfth with the smallest hash of its pixels is held out. The order of a file does not matter,
and the validation digits of the bundled subset are validation digits of the full set. A model trained on either set
can therefore be judged on the validation split of the other. Copies of a held-out picture are held out too, whatever
their class. MNIST has none.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

VALIDATION_SHARE = 12  # one picture in twelve: 5,000 of 60,000
SPLIT_SEED = b"digits"


def validation_mask(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Choose one picture in twelve of each class: those with the smallest hash of their pixels, and their copies.

    Args:
        images: uint8 [n, ...].
        labels: int64 [n], from 0.

    Returns:
        bool [n], true for round(n / 12) pictures, apportioned over the classes by largest remainder, and their copies.
    """
    hashes = np.array(
        [hashlib.blake2b(image.tobytes(), digest_size=8, key=SPLIT_SEED).digest() for image in images],
        dtype="S8",
    ).view(">u8")
    mask = np.zeros(len(labels), dtype=bool)
    for number, held_out in enumerate(apportion(np.bincount(labels), round(len(labels) / VALIDATION_SHARE))):
        members = np.flatnonzero(labels == number)
        mask[members[np.argsort(hashes[members], kind="stable")[:held_out]]] = True
    return np.isin(hashes, hashes[mask])


def apportion(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide `total` into whole shares in proportion to `sizes` (largest remainder, Hamilton's method)."""
    exact = sizes * total / sizes.sum()
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares
