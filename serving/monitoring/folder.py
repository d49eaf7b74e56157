"""The folder through which the workers of one service share their metrics, one file per worker and kind of metric.

prometheus_client maps these files into memory. It makes them without allocating their blocks: on a full disk, the first
write to a block would end the worker with SIGBUS. So each worker allocates its files before prometheus_client opens
them, large enough for all that it will write.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "digits-metrics-"
# Bytes by kind, as prometheus_client names the files. Every endpoint with every status fits, and so do 1,000 versions
# and all labels of predictions.
SIZES = {
    "counter": 2**19,
    "gauge_livemax": 2**18,
    "gauge_livesum": 2**16,
    "gauge_max": 2**16,
    "histogram": 2**21,
}


def make_folder() -> Path:
    """Make a folder for one start of the service, and remove the folders of services that were killed.

    This process removes it at its end. Until then, it holds a lock on it, by which others see that it is in use.

    Raises:
        OSError: there is no temporary folder to write in.
    """
    for leftover in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_unless_used(leftover)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # no other start took it for a leftover
            break
        os.close(lock)
    owner = os.getpid()
    # A child process that this one forked inherits the exit handler.
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder


def claim_files(folder: Path) -> None:
    """Give this worker its files, allocated in full, before prometheus_client opens them.

    If a worker has died, its successor takes its files over: counters keep their values, and gauges of living workers
    start empty. So the folder does not grow with restarts, and a restart needs no space.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with _locked(folder / "lock"):
        for kind, size in SIZES.items():
            own = folder / f"{kind}_{os.getpid()}.db"
            dead = [file for file in folder.glob(f"{kind}_*.db") if file != own and not _is_worker(_owner_of(file))]
            if kind.startswith("gauge_live"):
                for file in dead:
                    with file.open("r+b") as content:
                        content.write(bytes(size))
            if dead:
                dead[0].replace(own)
            elif not own.exists():
                _allocate(own, size)


def _remove_unless_used(folder: Path) -> None:
    with suppress(OSError):  # another user's, or another start removed it first
        lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _allocate(file: Path, size: int) -> None:
    # Other workers read every file *.db: it gets its name when it is whole. Zeros are an empty file of metrics.
    partial = file.with_suffix(".partial")
    try:
        partial.write_bytes(bytes(size))
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _owner_of(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _is_worker(process: int) -> bool:
    # Not only whether it exists: another program may have its number by now.
    try:
        return psutil.Process(process).ppid() == os.getppid()
    except psutil.NoSuchProcess:
        return False
