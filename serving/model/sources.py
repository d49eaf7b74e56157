"""Sources of models: a file, or MLflow's model registry with a local cache."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import one_line, printable, without_secrets
from serving.model.cache import FILE, Cache
from serving.model.onnx_file import ModelError
from serving.settings import Settings

ALIAS = "champion"
DEFAULT_MODEL = "digits"
DIGEST_TAG = "sha256"  # of the version's file, in hexadecimal
DEFAULT_TRACKING_URI = "sqlite:///var/mlflow.db"

NO_CHAMPION = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for a missing model or alias

# Their errors reach the log as the reason of a `SourceError`, once and without secrets. Their own lines repeat at each
# poll, with a traceback or the registry's address.
NOISY = ("mlflow", "urllib3", "sqlalchemy", "alembic")


class SourceError(Exception):
    """The source has no model at the moment.

    Args:
        sentence: for everyone, without details of a library.
        reason: for the log alone, on one line and without secrets.
    """

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Candidate:
    """The model that a source currently offers.

    Attributes:
        key: changes whenever the content may have changed.
        version: the registry's version, None for a file.
        source: description of its origin, for people.
        fetch: returns the path of the ONNX file; may take long, may raise `SourceError`.
        download_again: the same, after deleting the cached file; None if that cannot give another file.
        digest: SHA-256 that the file must have, in hexadecimal; None if it is not known.
    """

    key: str
    version: str | None
    source: str
    fetch: Callable[[], Path]
    download_again: Callable[[], Path] | None = None
    digest: str | None = None


class FileSource:
    """The file named by `SERVING_MODEL`; a changed file is a new candidate."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self) -> Candidate:
        """Return the file as a candidate; raises `SourceError` if it is missing."""
        try:
            state = self._path.stat()
        except OSError as error:
            raise SourceError(printable(f"{self._path} cannot be read: {error.strerror or error}.")) from error
        # A file put in place by a wrong clock, or with its time preserved, can have the time of the former one.
        key = f"{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}-{state.st_size}"
        return Candidate(key, None, printable(f"file {self._path}"), lambda: self._path)

    def last_good(self) -> Candidate | None:
        """Return None: files are not cached."""
        return None

    def remember(self, candidate: Candidate, digest: str) -> None:
        """Do nothing: files are not cached."""


class RegistrySource:
    """The champion in MLflow's model registry, with downloads cached in `models` in the cache folder."""

    def __init__(self, settings: Settings) -> None:
        # Each model has a folder: without the registry, the last one of another name must not be served.
        name = settings.model_name
        self._cache = Cache(settings.cache_dir / ("models" if name == DEFAULT_MODEL else f"models-{name}"))
        self._model = name
        self._client: Any = None
        # If the registry is down, fail early and retry, instead of waiting for MLflow's two minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(settings.registry_timeout_seconds))
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI
        self._name = without_secrets(self._uri)

    def find(self) -> Candidate:
        """Return the champion; raises `SourceError` if there is none or the registry does not answer."""
        if self._uri.startswith("sqlite:///") and not Path(self._uri.removeprefix("sqlite:///")).exists():
            # MLflow would create an empty database here.
            raise SourceError(f"there is no registry at {self._name} yet: train a model first.")
        # Import late: MLflow takes seconds and memory that a service with SERVING_MODEL does not need.
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            if self._client is None:
                for name in NOISY:
                    logging.getLogger(name).setLevel(logging.CRITICAL)
                mlflow.set_tracking_uri(self._uri)
                self._client = MlflowClient()
            found = self._client.get_model_version_by_alias(self._model, ALIAS)
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code in NO_CHAMPION:
                sentence = f"the registry at {self._name} has no {self._model}@{ALIAS} yet: train a model first."
            else:
                sentence = f"the registry at {self._name} does not answer."
            raise SourceError(sentence, one_line(error)) from error
        # Two registries can both have a version 3: the time of creation distinguishes them.
        key = f"{found.version}-{found.creation_timestamp}"
        version = str(found.version)
        cached = self._cache.find(key) is not None
        digest = found.tags.get(DIGEST_TAG)
        return Candidate(
            key,
            version,
            f"registry {self._name} {self._model}@{ALIAS}",
            lambda: self._download(key, version),
            (lambda: self._download(key, version, again=True)) if cached or digest else None,
            digest,
        )

    def last_good(self) -> Candidate | None:
        """Return the model that was served last, if its file is still in the cache."""
        found = self._cache.last_good()
        if found is None:
            return None
        return Candidate(found.key, found.version, f"cache {found.path}", lambda: found.path, digest=found.digest)

    def remember(self, candidate: Candidate, digest: str) -> None:
        """Record `candidate` as the last good model and delete the cached files of all others.

        Raises:
            OSError: the record cannot be written.
        """
        self._cache.remember(candidate.key, candidate.version, digest)

    def _download(self, key: str, version: str, again: bool = False) -> Path:
        if not again and (cached := self._cache.find(key)):
            return cached
        from mlflow.artifacts import download_artifacts

        try:
            with self._cache.download(key) as folder:
                download_artifacts(artifact_uri=f"models:/{self._model}/{version}", dst_path=str(folder))
        except Exception as error:
            raise SourceError(f"version {version} of {self._model} cannot be downloaded.", one_line(error)) from error
        path = self._cache.find(key)
        if path is None:
            raise ModelError(f"version {version} of {self._model} contains no file {FILE}.")
        return path
