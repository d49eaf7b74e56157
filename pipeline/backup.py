"""Backup and restore of the store: database, artifacts and checkpoints in one archive, without the downloads.

The archive is a tar file, written and read as a stream. Its last member is the manifest: the format, and the SHA-256 of
every other member. Neither torch nor MLflow is imported: both take seconds.
"""

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO

from pipeline import PipelineError
from pipeline.settings import BackupSettings, RestoreSettings
from pipeline.tracking.location import relocate, snapshot

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, DATABASE = "manifest.json", "mlflow.db"
SIDE_FILES = ("-wal", "-shm", "-journal")  # SQLite would apply those of another database to a restored one
STANDARD = Path("-")  # output or input
IN_MEMORY = 2**24  # bytes; a larger file is copied to the disk before it is archived


class BackupError(PipelineError):
    """A backup cannot be written, read or restored; the message is one sentence with the remedy."""


def backup(settings: BackupSettings) -> None:
    """Write database, artifacts and checkpoints to one archive, while a server or a training may write them.

    Raises:
        BackupError: there is nothing to back up, it cannot be read, or the archive cannot be written.
    """
    places = _places(settings.state_dir)
    if not places[DATABASE].is_file():
        raise BackupError(f"{places[DATABASE]} does not exist: name the folder of the runs with --state-dir.")
    try:
        with _opened(settings.to) as output:
            count = _write(output, places)
    except OSError as error:
        where = error.filename or settings.to
        raise BackupError(f"The backup failed at {where} ({error.strerror}): mend that, and repeat.") from None
    log.info("%d files are in %s.", count, "the standard output" if settings.to == STANDARD else settings.to)


def restore(settings: RestoreSettings) -> None:
    """Put back what `backup` wrote. Nothing in the target is touched until the whole archive is checked.

    Raises:
        BackupError: the target is not empty, or the archive is damaged or cannot be read.
    """
    places = _places(settings.state_dir)
    taken = [str(place) for place in places.values() if place.is_file() or (place.is_dir() and any(place.iterdir()))]
    if taken and not settings.yes:
        raise BackupError(f"This would replace {', '.join(taken)}: add --yes, or choose another --state-dir.")
    homes = {place.parent for place in places.values()}
    try:
        with ExitStack() as stack:
            # On the disk of each target, so that the moves at the end are renames.
            folders = {}
            for home in homes:
                home.mkdir(parents=True, exist_ok=True)
                folders[home] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".restoring-", dir=home)))
            staging = {part: folders[place.parent] for part, place in places.items()}
            archive = stack.enter_context(sys.stdin.buffer if settings.file == STANDARD else settings.file.open("rb"))
            count = _extract(archive, staging)
            relocate(staging[DATABASE] / DATABASE, places["artifacts"])
            _exchange(staging, places)
    except sqlite3.Error as error:
        raise BackupError(f"The database in the archive is from another release ({error}): use that one.") from None
    except OSError as error:
        where = error.filename or " and ".join(map(str, homes))
        raise BackupError(f"The restore failed at {where} ({error.strerror}): mend that, and repeat.") from None
    log.info("%d files are restored to %s.", count, " and ".join(sorted(map(str, homes))))


def _places(state_dir: Path) -> dict[str, Path]:
    """The parts of the store by their name in the archive, in the order in which they are copied.

    A checkpoint may be older than the database, as after a crash, but not newer. The database refers only to artifacts
    that were written before, so they come last.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri and not uri.startswith("sqlite:///"):
        raise BackupError(
            "The runs are on an MLflow server: run this command where its files are, see docs/operations.md, "
            "or unset MLFLOW_TRACKING_URI."
        )
    database = Path(uri.removeprefix("sqlite:///")) if uri else state_dir / DATABASE
    return {"checkpoints": state_dir / "checkpoints", DATABASE: database, "artifacts": database.parent / "artifacts"}


@contextmanager
def _opened(to: Path) -> Iterator[IO[bytes]]:
    """The standard output, or a file that appears when it is whole."""
    if to == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.is_dir():
        raise BackupError(f"{to} is a folder: name a file with --to.")
    partial = to.with_name(f"{to.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(to)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _write(output: IO[bytes], places: dict[str, Path]) -> int:
    """Write the archive, and return the number of files in it."""
    digests = {}
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=output, mode="w|") as archive:
        for part, place in places.items():
            source = snapshot(place, Path(folder) / DATABASE) if part == DATABASE else place
            for file in [source] if part == DATABASE else _files(source):
                name = (part / file.relative_to(source)).as_posix()
                with suppress(FileNotFoundError):  # deleted meanwhile, as checkpoints are at the end of a run
                    digests[name] = _add(archive, name, file)
        manifest = json.dumps({"format": FORMAT, "files": digests}).encode()
        described = tarfile.TarInfo(MANIFEST)
        described.size = len(manifest)
        archive.addfile(described, BytesIO(manifest))
    return len(digests)


def _files(folder: Path) -> Iterator[Path]:
    """The finished files below a folder."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, _, names in os.walk(folder, onerror=refuse):
        files = (Path(place, name) for name in sorted(names) if not name.endswith(".partial"))
        yield from (file for file in files if file.is_file())


def _add(archive: tarfile.TarFile, name: str, file: Path) -> str:
    """Add a file under a name, and return its SHA-256."""
    # A copy, because a tar file has the size first, and a log may grow meanwhile.
    with file.open("rb") as source, tempfile.SpooledTemporaryFile(IN_MEMORY) as copied:
        shutil.copyfileobj(source, copied)
        described = tarfile.TarInfo(name)
        described.size, described.mtime = copied.tell(), int(os.fstat(source.fileno()).st_mtime)
        copied.seek(0)
        digest = hashlib.file_digest(copied, "sha256").hexdigest()
        copied.seek(0)
        archive.addfile(described, copied)
    return digest


def _extract(source: IO[bytes], staging: dict[str, Path]) -> int:
    """Extract each part of an archive into its folder, check all of it, and return the number of files."""
    digests, manifest = {}, None
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                folder = staging.get(member.name.split("/")[0])
                if member.name == MANIFEST and (content := archive.extractfile(member)):
                    manifest = json.load(content)
                elif member.isreg() and folder:
                    archive.extract(member, folder, filter="data")  # raises if the path leads out of the folder
                    with (folder / member.name).open("rb") as file:
                        digests[member.name] = hashlib.file_digest(file, "sha256").hexdigest()
                else:
                    raise BackupError(f"The archive holds {member.name!r}, which no backup does: choose another one.")
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise BackupError(f"The archive is damaged ({error}): choose another one.") from None
    if not isinstance(manifest, dict):
        raise BackupError("The archive is cut off, or is not a backup: choose another one.")
    if manifest.get("format") != FORMAT:
        raise BackupError(f"The archive has format {manifest.get('format')}, not {FORMAT}: use another release.")
    expected = manifest.get("files", {})
    wrong = [name for name in {**expected, **digests} if expected.get(name) != digests.get(name)]
    if wrong:
        raise BackupError(f"The archive is damaged: {wrong[0]} differs from its checksum; choose another one.")
    return len(digests)


def _exchange(staging: dict[str, Path], places: dict[str, Path]) -> None:
    """Move the extracted parts to their places; if a move fails, undo those before it."""
    database = places[DATABASE]
    beside = [database.with_name(f"{database.name}{end}") for end in SIDE_FILES]
    moves = [(staging[part] / part, place) for part, place in places.items()]
    moves += [(staging[DATABASE] / place.name, place) for place in beside]  # which no archive has
    with ExitStack() as undo:
        for new, place in moves:
            if os.path.lexists(place):
                former = new.with_name(f"{new.name}.former")
                place.rename(former)
                undo.callback(former.rename, place)
            if new.exists():
                new.rename(place)
                undo.callback(place.rename, new)
        undo.pop_all()
