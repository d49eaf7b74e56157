"""Downloads by torchvision, abandoned if they stall."""

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipeline.data.catalogue import Entry

log = logging.getLogger(__name__)

STALL_TIMEOUT = 20.0  # seconds without a new byte after which a download is abandoned


def download(entry: Entry, root: Path) -> str | None:
    """Download a data set into `root` by torchvision; return None, or why the download failed.

    torchvision checks each download by MD5, and sets no timeout. A socket timeout would apply per address of each
    mirror and not to the resolver, which can hang without a network. The download therefore runs in a thread, abandoned
    after `STALL_TIMEOUT` seconds without a new byte.
    """
    from torchvision import datasets

    log.info("Downloading %s to %s (timeout: %d s without progress).", entry.title, root, STALL_TIMEOUT)
    failures: list[str] = []

    def fetch() -> None:
        try:
            for arguments in entry.downloads:
                getattr(datasets, entry.loader)(str(root), download=True, **arguments)
        except Exception as error:  # the mirrors raise many kinds; each is reported
            failures.append(" ".join(str(error).split()) or type(error).__name__)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    downloaded, since = -1, time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        size = _size(root)
        if size != downloaded:
            downloaded, since = size, time.monotonic()
        elif time.monotonic() - since > STALL_TIMEOUT:
            return f"no progress within {STALL_TIMEOUT:.0f} s"
    return failures[0] if failures else None


def _size(root: Path) -> int:
    """Bytes in all files of a folder in which torchvision may just be deleting what it has unpacked."""
    size = 0
    for folder, _, files in os.walk(root):
        for file in files:
            with suppress(FileNotFoundError):
                size += Path(folder, file).stat().st_size
    return size
