"""The model in service: loaded without holding up the HTTP server, then followed, swapped between two batches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from serving.contract import NUMBERS, number
from serving.model.onnx_file import Model, ModelError, UnreadableError
from serving.model.sources import Candidate, FileSource, RegistrySource, SourceError
from serving.monitoring.metrics import Metrics
from serving.settings import Settings

FIRST_RETRY_SECONDS = 0.5
TENTH_NOTE = "trained on the bundled tenth of MNIST (6,000 digits), not on the full data set"

logger = logging.getLogger("bentoml.digits")


@dataclass(frozen=True)
class Served:
    """A model in service; it never changes, a swap puts another one in its place.

    Attributes:
        model: the verified model.
        version: the registry's version, or the first 12 digits of the file's SHA-256.
        source: where it came from, for people.
        since: when it was loaded, ISO 8601 in UTC.
    """

    model: Model
    version: str
    source: str
    since: str


class Store:
    """Keeps the right model in service, from a thread of its own, so that the HTTP server starts at once.

    Attributes:
        current: the model in service; replaced in one step. None until the first one is verified.
        problem: why the model that should be served is not, as one sentence; None when it is.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.current: Served | None = None
        self.problem: str | None = "the model is being loaded."
        self._settings = settings
        self._metrics = metrics
        self._source = FileSource(settings.model) if settings.model else RegistrySource(settings)
        self._serving_key: str | None = None
        self._refused_key: str | None = None
        self._refusal = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="store", daemon=True)

    def start(self) -> None:
        """Begin to look for a model; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; the current model stays."""
        self._stopping.set()

    def describe(self) -> dict[str, Any]:
        """What `GET /model` answers: the model in service and where it came from, or why there is none."""
        served = self.current
        answer: dict[str, Any] = {"ready": served is not None, "problem": self.problem}
        if served is None:
            return answer
        metadata: dict[str, Any] = dict(served.model.metadata)
        for name in NUMBERS:
            metadata[name] = number(name, metadata[name])
        if metadata["data"] != "full":
            answer["warning"] = TENTH_NOTE
        return {
            **answer,
            "version": served.version,
            "source": served.source,
            "loaded_since": served.since,
            **metadata,
        }

    def refresh(self) -> bool:
        """Look once and swap if there is something new.

        Returns:
            True when what the source offers is what is served.
        """
        try:
            candidate = self._source.find()
            if candidate.key == self._refused_key:
                self._report(self._refusal)  # again, where something else was told meanwhile
                return False
            if candidate.key != self._serving_key:
                self._swap(candidate)
                self._metrics.reloads["loaded"].inc()
            elif self.current and self.current.source != candidate.source:  # what the cache had is what it offers
                self.current = replace(self.current, source=candidate.source)
                logger.info("version %s is still the champion of %s", self.current.version, candidate.source)
        except (SourceError, UnreadableError) as reason:
            self._report(str(reason))
            self._metrics.reloads["unavailable"].inc()
            if self.current is None:
                self.serve_cached()
            return False
        except ModelError as refusal:
            self._refused_key, self._refusal = candidate.key, f"refused: {refusal}"
            self._metrics.reloads["refused"].inc()
            self._report(self._refusal)
            return False
        self._refused_key = None
        self.problem = None
        return True

    def _swap(self, candidate: Candidate) -> None:
        model = self._load(candidate)
        served = Served(
            model,
            candidate.version or model.digest[:12],
            candidate.source,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.current, self._serving_key = served, candidate.key
        self._metrics.serves(served.version, model.metadata["recipe"])
        try:
            self._source.remember(candidate)
        except OSError as error:
            logger.warning("the cache is not kept: %s", error)
        metadata = model.metadata
        logger.info(
            "model loaded: version %s, recipe %s, test accuracy %.2f %%, data %s, from %s",
            served.version,
            metadata["recipe"],
            100 * float(metadata["test_accuracy"]),
            metadata["data"],
            served.source,
        )
        if metadata["data"] != "full":
            logger.warning("the model in service was %s", TENTH_NOTE)

    def _load(self, candidate: Candidate) -> Model:
        try:
            return Model.load(candidate.fetch(), self._settings.threads)
        except ModelError as refusal:
            if candidate.fetch_anew is None:
                raise
            # The version may be good and only its cached copy damaged, which would block it for good.
            logger.warning("the cached model is refused, it is downloaded again: %s", refusal)
            return Model.load(candidate.fetch_anew(), self._settings.threads)

    def serve_cached(self) -> None:
        """Serve the last good model, if its file is still in the cache and as good as it was."""
        candidate = self._source.last_good()
        if candidate is None:
            return
        try:
            self._swap(candidate)
            self._metrics.reloads["cached"].inc()
        except ModelError as refusal:
            self._metrics.reloads["refused"].inc()
            logger.error("the cached model is refused: %s", refusal)

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            kept = f"; version {self.current.version} keeps serving" if self.current else ""
            logger.error("%s%s", problem.rstrip("."), kept)
        self.problem = problem

    def _follow(self) -> None:
        # The first look at a registry takes seconds: MLflow is imported for it.
        self._outlive(self.serve_cached)
        if self.current:
            self.problem = "served from the cache until the registry answers."
        retry = FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            done = self._outlive(self.refresh)
            self._stopping.wait(self._settings.poll_seconds if done else min(retry, self._settings.poll_seconds))
            retry = FIRST_RETRY_SECONDS if done else min(2 * retry, self._settings.poll_seconds)

    def _outlive(self, look: Callable[[], bool | None]) -> bool:
        """Look for a model; whatever happens then, the thread goes on, or the service would never see another model."""
        try:
            return bool(look())
        except Exception:
            logger.exception("looking for the model failed")
            self.problem = "looking for the model failed; the log says why."
            return False
