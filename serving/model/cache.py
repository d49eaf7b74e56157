"""Downloaded models: the last good one outlives the process and serves a start without the registry."""

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serving.errors import one_line

FILE = "model.onnx"
KEY = "[0-9]+-[0-9]+"
# No download takes longer: an older temporary folder belongs to an interrupted one.
STALE_SECONDS = 24 * 3600
# A folder that has no room for so many bytes counts as not writable.
ROOM_BYTES = 8 * 2**20

logger = logging.getLogger("bentoml.digits")


@dataclass(frozen=True)
class LastGood:
    """The model that was served last.

    Attributes:
        key: see `Candidate`.
        version: the registry's version.
        digest: SHA-256 of its file in hexadecimal; None in records of earlier releases.
        path: its file.
    """

    key: str
    version: str
    digest: str | None
    path: Path


class Cache:
    """A folder with one subfolder per model. Contents that this class has not written stay untouched.

    While the folder is not writable, a model is downloaded to a temporary folder, and read from there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record = folder / "last-good.json"
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._warned = False

    def find(self, key: str) -> Path | None:
        """Return the file of the model `key`, or None."""
        folders = [Path(self._temporary.name)] if self._temporary else []
        paths = [folder / key / FILE for folder in (*folders, self._folder)]
        return next(filter(_exists, paths), None)

    def last_good(self) -> LastGood | None:
        """Return the model that was served last, if its file is still there."""
        try:
            record = json.loads(self._record.read_text())
            key, version, digest = str(record["key"]), str(record["version"]), record.get("sha256")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not re.fullmatch(KEY, key):
            return None
        path = self._folder / key / FILE
        return LastGood(key, version, digest and str(digest), path) if _exists(path) else None

    def remember(self, key: str, version: str | None, digest: str) -> None:
        """Record the model in service as the last good one, and delete the files of all others.

        Raises:
            OSError: the record cannot be written.
        """
        if self._temporary:
            temporary = _exists(Path(self._temporary.name) / key / FILE)
            self._temporary.cleanup()
            self._temporary = None
            if temporary:  # and in memory by now
                return
        found = self.last_good()
        if found is None or (found.key, found.version, found.digest) != (key, version, digest):
            partial = self._record.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({"key": key, "version": version, "sha256": digest}))
            partial.replace(self._record)
        for folder in self._folder.iterdir():
            if folder.name != key and _is_leftover(folder):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def download(self, key: str) -> Iterator[Path]:
        """Give an empty folder for the download of the model `key`; its first model file is kept afterwards.

        Raises:
            OSError: nothing can be written, not even to a temporary folder.
        """
        with suppress(OSError):
            if (self._folder / key / FILE).is_dir():
                shutil.rmtree(self._folder / key)
            (self._folder / key / FILE).unlink(missing_ok=True)
        home = self._writable()
        with tempfile.TemporaryDirectory(prefix="download-", dir=home) as folder:
            yield Path(folder)
            if files := sorted(Path(folder).rglob(FILE)):
                (home / key).mkdir(exist_ok=True)
                files[0].replace(home / key / FILE)

    def _writable(self) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(bytes(ROOM_BYTES))
        except OSError as error:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="digits-")
            if not self._warned:
                logger.warning(
                    "%s is not writable (%s): models are downloaded to a temporary folder",
                    self._folder,
                    one_line(error),
                )
            self._warned = True
            return Path(self._temporary.name)
        self._warned = False
        return self._folder


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that must not be read
        return False


def _is_leftover(folder: Path) -> bool:
    """Return whether `folder` is certainly an old version or an interrupted download of this module."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        if re.fullmatch(KEY, folder.name):
            return all(file.name == FILE for file in folder.iterdir())
        return folder.name.startswith("download-") and folder.stat().st_mtime < time.time() - STALE_SECONDS
    except OSError:  # another service with the same cache deleted it first
        return False
