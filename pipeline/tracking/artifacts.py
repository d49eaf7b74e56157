"""The artifacts of a registry: files below folders, copied by MLflow's clients of object stores, and read back."""

import hashlib
import logging
import os
import posixpath
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipeline import PipelineError
from pipeline.tracking.connection import LOG_EVERY, one_line

log = logging.getLogger(__name__)

THREADS = 8  # that copy: a store far away takes milliseconds for each request
UNFINISHED = ".artifact.uploading."  # how MLflow's names begin while it writes a file


class ArtifactError(PipelineError):
    """Artifacts cannot be copied; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Artifact:
    """A file that is in the destination."""

    path: str  # in the destination
    digest: str  # SHA-256 of what was read back
    copied: bool  # now, and not before


def open_store(address: str) -> ArtifactRepository:
    """A client of the place at an address, such as `s3://bucket/folder` or a folder of this machine.

    Raises:
        ArtifactError: it cannot be read.
    """
    if "://" not in address:
        address = Path(address).resolve().as_uri()
    try:
        store = get_artifact_repository(address)
        store.list_artifacts()
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"{address} needs the package {error.name}: install requirements/team.txt (docs/scaling.md)."
        ) from None
    except Exception as error:  # each client has errors of its own
        raise ArtifactError(_refused(address, error)) from error
    return store


def copy(folders: Mapping[Path, str], store: ArtifactRepository) -> list[Artifact]:
    """Copy all files below the folders, each folder to a path in the store; a file that is there is only checked.

    Raises:
        ArtifactError: a file cannot be copied, or reads back as another one.
    """
    tasks = [task for folder, path in folders.items() for task in _tasks(folder, path)]
    total, done, logged = sum(len(files) for files, _ in tasks), [], time.monotonic()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for artifacts in pool.map(lambda task: _copy(store, *task), tasks):
                done += artifacts
                if time.monotonic() - logged >= LOG_EVERY:
                    logged = time.monotonic()
                    log.info("Artifacts: %d of %d are in %s.", len(done), total, store.artifact_uri)
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(_refused(store.artifact_uri, error)) from error
    return done


def checksum(artifacts: list[Artifact]) -> str:
    """One SHA-256, hexadecimal, of the paths and digests of all artifacts."""
    lines = sorted(f"{each.digest}  {each.path}\n" for each in artifacts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _tasks(folder: Path, path: str) -> Iterator[tuple[list[Path], str]]:
    """The files of each folder with any, and its path in the store."""

    def refuse(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=refuse):
        files = [Path(place, name) for name in sorted(names) if not name.startswith(UNFINISHED)]
        if files:
            yield files, posixpath.normpath(posixpath.join(path, Path(place).relative_to(folder).as_posix()))


def _copy(store: ArtifactRepository, files: list[Path], path: str) -> list[Artifact]:
    within = None if path == "." else path
    sizes = {posixpath.basename(each.path): each.file_size for each in store.list_artifacts(within) if not each.is_dir}
    artifacts = []
    for file in files:
        to = posixpath.normpath(posixpath.join(path, file.name))
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        there = sizes.get(file.name) == file.stat().st_size and _read_back(store, to) == digest
        if not there:
            store.log_artifact(str(file), within)
            if _read_back(store, to) != digest:
                raise ArtifactError(f"{file} reads back from {store.artifact_uri} as another file: repeat the command.")
        artifacts.append(Artifact(to, digest, not there))
    return artifacts


def _read_back(store: ArtifactRepository, path: str) -> str:
    """The SHA-256 of a file in the store."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "file")
        # `download_artifacts` would list the path first, to see whether it is a folder: a third of all requests.
        store._download_file(path, str(copy))
        with copy.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


def _refused(address: str, error: Exception) -> str:
    where = f"{error.filename} " if isinstance(error, OSError) and error.filename else ""
    return (
        f"Artifacts cannot be copied to {address} ({where}{one_line(error)}): correct the place, the credentials or "
        "their rights, and repeat the command."
    )
