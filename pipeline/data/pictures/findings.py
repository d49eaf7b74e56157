"""A report on a folder of pictures, before training: what is in it, and what may spoil the result."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.names import joined

log = logging.getLogger(__name__)

FEW = 20  # pictures of a class


@dataclass(frozen=True)
class FolderReport:
    """The content of a folder of pictures.

    Attributes:
        folder: its path.
        counts: readable pictures of each class.
        smallest: width and height in pixels of the picture with the fewest pixels, as in its file.
        largest: width and height of the one with the most.
        unreadable: path and reason of each file that is left out.
        shared: pairs of paths: equal pictures in two classes.
        loose: paths of pictures outside the classes, which are left out.
    """

    folder: Path
    counts: Mapping[str, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    unreadable: tuple[tuple[str, str], ...]
    shared: tuple[tuple[str, str], ...]
    loose: tuple[str, ...]

    @property
    def few(self) -> tuple[str, ...]:
        """The classes with few pictures."""
        return tuple(name for name, count in self.counts.items() if count < FEW)

    def log(self) -> None:
        """Write the report to the log; what may spoil the result is a warning."""
        total = f"{sum(self.counts.values()):,}"
        sizes = "{}x{} to {}x{}".format(*self.smallest, *self.largest)
        log.info("%s: %s pictures of %d classes, %s pixels.", self.folder, total, len(self.counts), sizes)
        counts = [f"{name} {count:,}" for name, count in self.counts.items()]
        log.info("Pictures per class: %s.", joined(counts, len(counts)))
        if self.unreadable:
            listed = joined([f"{path} {reason}" for path, reason in self.unreadable])
            log.warning("Left out, because they cannot be read: %s files (%s).", f"{len(self.unreadable):,}", listed)
        if self.loose:
            listed = joined(self.loose)
            log.warning("Left out: pictures outside the classes (%s); move each to the folder of its class.", listed)
        if self.shared:
            listed = joined([" = ".join(pair) for pair in self.shared])
            log.warning("Equal pictures in two classes (%s): remove the one with the wrong class.", listed)
        if self.few:
            log.warning("Classes with fewer than %d pictures: %s; add some.", FEW, joined(self.few))
