"""The two places that models come from: a file, and MLflow's model registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.model.onnx_file import ModelError
from serving.settings import Settings

MODEL_NAME = "digits"
ALIAS = "champion"
DEFAULT_TRACKING_URI = "sqlite:///var/mlflow.db"

FILE = "model.onnx"
# A download that is older was cut short, for example by a kill: no download takes that long.
STALE_SECONDS = 24 * 3600


class SourceError(Exception):
    """The place that models come from gives none now; the message is one sentence that says why."""


@dataclass(frozen=True)
class Candidate:
    """What a source offers now.

    Attributes:
        key: differs whenever the content may differ.
        version: the registry's version, None for a file.
        source: where it comes from, for people.
        fetch: returns the path of the ONNX file; may take long, may raise `SourceError`.
        fetch_anew: the same past the cache, which loses its file; None when `fetch` uses no cached copy.
    """

    key: str
    version: str | None
    source: str
    fetch: Callable[[], Path]
    fetch_anew: Callable[[], Path] | None = None


class FileSource:
    """The file that `SERVING_MODEL` names; a changed file is a new candidate."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self) -> Candidate:
        """Look at the file; raises `SourceError` when there is none."""
        try:
            state = self._path.stat()
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        key = f"{state.st_mtime_ns}-{state.st_size}"
        return Candidate(key, None, f"file {self._path}", lambda: self._path)

    def last_good(self) -> Candidate | None:
        """Nothing is cached for a file."""
        return None

    def remember(self, candidate: Candidate) -> None:
        """Nothing is cached for a file."""


class RegistrySource:
    """The champion in MLflow's model registry, with a folder that keeps what was downloaded.

    The folder is `models` in the cache folder, whose other contents may be somebody else's.
    """

    def __init__(self, settings: Settings) -> None:
        self._cache = settings.cache_dir / "models"
        self._note = self._cache / "last-good.json"
        self._client: Any = None
        # The registry may be down: fail soon and ask again, rather than hang for MLflow's two minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(settings.registry_timeout_seconds))
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI

    def find(self) -> Candidate:
        """Ask which version is champion; raises `SourceError` when there is no answer or none is."""
        if self._uri.startswith("sqlite:///") and not Path(self._uri.removeprefix("sqlite:///")).exists():
            # MLflow would create an empty database here.
            raise SourceError(f"there is no registry at {self._uri} yet: train a model first.")
        # Imported late: it takes seconds and memory that a service with SERVING_MODEL does not need.
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            if self._client is None:
                mlflow.set_tracking_uri(self._uri)
                self._client = MlflowClient()
            found = self._client.get_model_version_by_alias(MODEL_NAME, ALIAS)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise SourceError(
                    f"the registry at {self._uri} has no {MODEL_NAME}@{ALIAS} yet: train a model first."
                ) from error
            raise SourceError(f"the registry at {self._uri} does not answer: {_one_line(error)}.") from error
        except Exception as error:
            raise SourceError(f"the registry at {self._uri} does not answer: {_one_line(error)}.") from error
        # Two registries can both have a version 3: the time of creation tells them apart.
        key = f"{found.version}-{found.creation_timestamp}"
        version = str(found.version)
        cached = self._path(key).exists()
        return Candidate(
            key,
            version,
            f"registry {self._uri} {MODEL_NAME}@{ALIAS}",
            lambda: self._download(key, version),
            (lambda: self._download(key, version, anew=True)) if cached else None,
        )

    def last_good(self) -> Candidate | None:
        """The model that was served last, when its file is still in the cache."""
        try:
            note = json.loads(self._note.read_text())
            key, version = str(note["key"]), str(note["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        path = self._path(key)
        return Candidate(key, version, f"cache {path}", lambda: path) if path.exists() else None

    def remember(self, candidate: Candidate) -> None:
        """Note `candidate` as the last good model and drop the cached files of all others.

        Raises:
            OSError: the note cannot be written.
        """
        text = json.dumps({"key": candidate.key, "version": candidate.version})
        partial = self._note.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        partial.replace(self._note)
        for folder in self._cache.iterdir():
            if folder.name != candidate.key and _is_leftover(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self._cache / key / FILE

    def _download(self, key: str, version: str, anew: bool = False) -> Path:
        path = self._path(key)
        if path.exists() and not anew:
            return path
        from mlflow.artifacts import download_artifacts

        try:
            path.unlink(missing_ok=True)
            self._cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="download-", dir=self._cache) as folder:
                download_artifacts(artifact_uri=f"models:/{MODEL_NAME}/{version}", dst_path=folder)
                files = sorted(Path(folder).rglob(FILE))
                if not files:
                    raise ModelError(f"version {version} of {MODEL_NAME} holds no file {FILE}.")
                path.parent.mkdir(exist_ok=True)
                files[0].replace(path)
        except ModelError:
            raise
        except Exception as error:
            raise SourceError(f"version {version} of {MODEL_NAME} cannot be downloaded: {_one_line(error)}.") from error
        return path


def _is_leftover(folder: Path) -> bool:
    """Whether this module made `folder` and nobody needs it: what is not surely its own is never deleted."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        if re.fullmatch("[0-9]+-[0-9]+", folder.name):
            return all(file.name == FILE for file in folder.iterdir())
        return folder.name.startswith("download-") and folder.stat().st_mtime < time.time() - STALE_SECONDS
    except OSError:  # another service with the same cache was faster
        return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]
