"""The two places that models come from: a file, and MLflow's model registry."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.model import ModelError
from serving.settings import Settings

MODEL_NAME = "digits"
ALIAS = "champion"
DEFAULT_TRACKING_URI = "sqlite:///var/mlflow.db"


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
    """

    key: str
    version: str | None
    source: str
    fetch: Callable[[], Path]


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
    """The champion in MLflow's model registry, with a folder that keeps what was downloaded."""

    def __init__(self, settings: Settings) -> None:
        self._cache = settings.cache_dir
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
        return Candidate(
            key, version, f"registry {self._uri} {MODEL_NAME}@{ALIAS}", lambda: self._download(key, version)
        )

    def last_good(self) -> Candidate | None:
        """The model that was served last, when its file is still in the cache."""
        try:
            note = json.loads(self._note.read_text())
            key, version = str(note["key"]), str(note["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        path = self._cache / key / "model.onnx"
        return Candidate(key, version, f"cache {path}", lambda: path) if path.exists() else None

    def remember(self, candidate: Candidate) -> None:
        """Note `candidate` as the last good model and drop the cached files of all others."""
        text = json.dumps({"key": candidate.key, "version": candidate.version})
        partial = self._note.with_suffix(f".{os.getpid()}")
        partial.write_text(text)
        partial.replace(self._note)
        for folder in self._cache.iterdir():
            if folder.is_dir() and folder.name != candidate.key and not folder.name.startswith("download-"):
                shutil.rmtree(folder, ignore_errors=True)

    def _download(self, key: str, version: str) -> Path:
        path = self._cache / key / "model.onnx"
        if path.exists():
            return path
        from mlflow.artifacts import download_artifacts

        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="download-", dir=self._cache) as folder:
                download_artifacts(artifact_uri=f"models:/{MODEL_NAME}/{version}", dst_path=folder)
                files = sorted(Path(folder).rglob("model.onnx"))
                if not files:
                    raise ModelError(f"version {version} of {MODEL_NAME} holds no file model.onnx.")
                path.parent.mkdir(exist_ok=True)
                files[0].replace(path)
        except ModelError:
            raise
        except Exception as error:
            raise SourceError(f"version {version} of {MODEL_NAME} cannot be downloaded: {_one_line(error)}.") from error
        return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]
