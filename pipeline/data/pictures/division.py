"""The splits of a folder of pictures, decided by their content: a picture and its exact copies are in one split."""

from collections import defaultdict
from collections.abc import Sequence

from pipeline.data.pictures.listing import TEST, TRAIN, VALIDATION

HELD_OUT = {TEST: 6, VALIDATION: 12}  # one picture in so many of each class


def divide(labels: Sequence[int], given: Sequence[str], hashes: Sequence[bytes], present: Sequence[str]) -> list[str]:
    """Choose a split for each picture.

    A split that the folder does not have is taken from its training pictures: those of each class with the smallest
    hashes, and at least one. A split that it has stays as it is, but for exact copies of pictures that are held out.

    Args:
        labels: number of each picture's class.
        given: `train`, `validation` or `test`, as the picture lies in the folder.
        hashes: digest of each picture's pixels.
        present: the splits that the folder has.

    Returns:
        the split of each picture; an empty text for a copy that is dropped.
    """
    chosen: dict[bytes, str] = {}
    for split in HELD_OUT:
        for digest, its_split in zip(hashes, given, strict=True):
            if its_split == split:
                chosen.setdefault(digest, split)
    classes = defaultdict[int, set[bytes]](set)
    for label, digest, split in zip(labels, hashes, given, strict=True):
        if split == TRAIN:
            classes[label].add(digest)
    for _, members in sorted(classes.items()):
        for split, share in HELD_OUT.items():
            if split not in present:
                # A picture that is in an earlier class as well has its split already.
                wanted = max(1, round(len(members) / share)) - sum(chosen.get(digest) == split for digest in members)
                chosen |= dict.fromkeys(sorted(members - chosen.keys())[: max(0, wanted)], split)
        chosen = dict.fromkeys(members, TRAIN) | chosen
    return [
        chosen[digest] if chosen[digest] == split or chosen[digest] not in present else ""
        for digest, split in zip(hashes, given, strict=True)
    ]
