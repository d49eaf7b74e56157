"""The four files of a data set with a name: found in a folder, checked by SHA-256, unpacked and read."""

import gzip
import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.data import idx
from pipeline.data.catalogue import Entry, Subset, owner
from pipeline.data.names import DataError


class Files:
    """The files of a data set in one folder: plain, with `.gz`, or within the zip file that its authors publish.

    Args:
        entry: the data set.
        folder: the folder.
        subset: whose checksums are to be compared.

    Attributes:
        entry: as given.
        folder: as given.
        unchecked: names of the files that were read although no checksum is known for their form.
    """

    def __init__(self, entry: Entry, folder: Path, subset: Subset = "full") -> None:
        self.entry, self.folder = entry, folder
        self._unpacked = dict(zip(entry.files, entry.unpacked.get(subset, ()), strict=False))
        self._packed = dict(zip(entry.files, entry.packed, strict=False))
        self._archive_is_checked = False
        self.unchecked: list[str] = []

    def are_complete(self) -> bool:
        """Whether all four files are there, plain or with `.gz`."""
        return all(self._exists(file) or self._exists(f"{file}.gz") for file in self.entry.files)

    def are_begun(self) -> bool:
        """Whether one of the files is there in any form."""
        archive, _ = self.entry.archive or ("", "")
        forms = [archive, *self.entry.files, *(f"{file}.gz" for file in self.entry.files)]
        return any(self._exists(form) for form in forms if form)

    def digest(self) -> str:
        """SHA-256 of the checksums of the four unpacked files. All have to be read before."""
        return hashlib.sha256("".join(self._unpacked[file] for file in self.entry.files).encode()).hexdigest()

    def read(self, file: str) -> NDArray[Any]:
        """Read one of the four files.

        The first reading of a file without a known checksum is unchecked. Each later one has to match it.

        Returns:
            The array in the file, writable.

        Raises:
            DataError: the file is missing, unreadable, fails its checksum, or is one of another data set.
        """
        path, stored, content = self._fetch(file)
        checksum = _sha256(content)
        compared, expected = checksum, self._unpacked.get(file)
        if expected is None and path.suffix == ".gz":
            compared, expected = _sha256(stored), self._packed.get(file)
        if compared != expected:
            other = owner(checksum) or owner(_sha256(stored))
            if other not in (None, self.entry.name):
                raise DataError(
                    f"{path} is a file of {other}, not of {self.entry.name}: "
                    f"set PIPELINE_DATASET={other}, or name a folder with the files of {self.entry.title}."
                )
            if expected is not None:
                raise _altered(self.folder / file)
            if not self._archive_is_checked:
                self.unchecked.append(file)
        self._unpacked[file] = checksum
        try:
            return idx.parse(content)
        except ValueError as error:
            raise DataError(f"{self.folder / file} {error}: fetch it again.") from None

    def _fetch(self, file: str) -> tuple[Path, bytes, bytes]:
        """Return the path of a file, its content, and its unpacked content."""
        plain, packed = self.folder / file, self.folder / f"{file}.gz"
        try:
            if self.entry.archive and self._exists(self.entry.archive[0]):
                path = self.folder / self.entry.archive[0]
                stored = self._member(path, f"gzip/{packed.name}")
            else:  # a checksum of the .gz file leaves the plain one unchecked
                path = plain if plain.exists() and not (file in self._packed and packed.exists()) else packed
                stored = path.read_bytes()
            return path, stored, stored if path == plain else gzip.decompress(stored)
        except FileNotFoundError:
            title = self.entry.title
            raise DataError(f"{plain} is missing: put {title}'s file of that name there, plain or with .gz.") from None
        except PermissionError as error:
            raise DataError(f"{error.filename} is not readable: correct its owner or its mode.") from None
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{plain} or its .gz cannot be read ({error}): fetch it again.") from None

    def _member(self, archive: Path, name: str) -> bytes:
        if not self._archive_is_checked:
            with archive.open("rb") as content:
                checksum = hashlib.file_digest(content, "sha256").hexdigest()
            if self.entry.archive != (archive.name, checksum):
                raise _altered(archive)
            self._archive_is_checked = True
        with zipfile.ZipFile(archive) as members:
            return members.read(name)

    def _exists(self, name: str) -> bool:
        return (self.folder / name).exists()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _altered(path: Path) -> DataError:
    return DataError(
        f"{path} is truncated or altered (its SHA-256 is wrong): delete it and fetch it again; "
        "pictures of your own are read with --dataset folder:PATH."
    )
