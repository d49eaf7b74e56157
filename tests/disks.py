"""Real file systems of a few kilobytes, which a test can fill."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes at `folder`; without the right to mount, the test is skipped by name."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "digits-test", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"only root may mount the small disk that this test fills: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the disk of `folder` is full; returns the file."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as content:
        try:
            while True:
                content.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return file
