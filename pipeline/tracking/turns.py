"""Turns: commands that train in the same state folder, or that move the aliases, wait for each other.

A lock of SQLite's own would not do: a training reads and writes many times, and what it read must still hold.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def turn(state_dir: Path, kind: str) -> Iterator[None]:
    """Hold the only turn of its kind in a folder; wait for it, and log so, if another process has it.

    The lock ends with its process, however that ends. On an MLflow server, processes with other state folders do not
    wait for this one.
    """
    file = state_dir / f"{kind}.lock"
    state_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, poll_interval=0.2)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with suppress(OSError):
            log.info("Process %s has its turn in %s: waiting until it ends.", file.read_text() or "?", state_dir)
        lock.acquire()
    try:
        file.write_text(str(os.getpid()))
        yield
    finally:
        with suppress(OSError):
            file.unlink()  # still locked: a process that opened it meanwhile notices, and makes a new one
        lock.release()
