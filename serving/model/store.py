"""Hot swap: load the model without delaying the HTTP server, then follow its source and swap between batches."""

import hashlib
import logging
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.contract import NUMBERS, TENTH, number
from serving.errors import one_line, redact
from serving.model.onnx_file import Model, ModelError, UnreadableError, read_file
from serving.model.sources import Candidate, FileSource, RegistrySource, SourceError
from serving.model.verification import UnverifiedError, Verifier
from serving.monitoring.metrics import Metrics
from serving.settings import Settings

FIRST_RETRY_SECONDS = 0.5
TENTH_NOTE = "trained on the bundled tenth of MNIST (6,000 digits), not on the full data set"

logger = logging.getLogger("bentoml.digits")


@dataclass(frozen=True)
class Served:
    """A model in service; immutable, because a swap replaces it as a whole.

    Attributes:
        model: the verified model.
        version: the registry's version, or the first 12 digits of the file's SHA-256.
        source: description of its origin, for people.
        since: time of loading, ISO 8601 in UTC.
    """

    model: Model
    version: str
    source: str
    since: str


class Store:
    """Keeps the source's current model in service, from a thread of its own.

    Attributes:
        current: the model in service; replaced atomically. None until the first one is verified.
        problem: one sentence on why the source's current model is not in service; None if it is.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.current: Served | None = None
        self.problem: str | None = "the model is being loaded."
        self._settings = settings
        self._metrics = metrics
        self._source = FileSource(settings.model) if settings.model else RegistrySource(settings)
        self._serving_key: str | None = None
        self._refused: tuple[str, str | None] | None = None
        self._refusal = ""
        self._reported: str | None = None
        self._loaded = threading.Event()
        self._tried = threading.Event()
        self._stopping = threading.Event()
        self._verifier = Verifier(settings.cache_dir / "models", settings.verify_seconds)
        self._thread = threading.Thread(target=self._follow, name="store", daemon=True)

    def start(self) -> None:
        """Start to load and follow the model in the background."""
        self._thread.start()

    def wait(self, seconds: float, for_model: bool) -> None:
        """Wait at most `seconds` until a model is in service or, without `for_model`, the source offers none."""
        (self._loaded if for_model else self._tried).wait(seconds)

    def stop(self) -> None:
        """Stop following the source; the current model stays in service."""
        self._stopping.set()
        self._verifier.close()

    def describe(self) -> dict[str, Any]:
        """Return the answer of `GET /model`: the model in service and its origin, or why there is none."""
        served = self.current
        answer: dict[str, Any] = {"ready": served is not None, "problem": self.problem}
        if served is None:
            return answer
        metadata: dict[str, Any] = dict(served.model.metadata)
        for name in NUMBERS:
            metadata[name] = number(name, metadata[name])
        form, subset = served.model.form, served.model.subset
        if subset == TENTH:
            answer["warning"] = TENTH_NOTE
        answer |= {"version": served.version, "source": served.source, "loaded_since": served.since}
        shown = {"subset": subset, "data": subset, **asdict(form)}
        # The file chooses the names of its metadata: the service's own entries are first, and prevail.
        return {**answer, **metadata, **shown, **answer}

    def refresh(self) -> bool:
        """Query the source once and swap if it offers another model.

        Returns:
            Whether the source's current model is in service.
        """
        try:
            candidate = self._source.find()
            if (candidate.key, candidate.digest) == self._refused:
                self._report(self._refusal)  # another problem may have replaced it meanwhile
                return False
            if candidate.key != self._serving_key:
                self._swap(candidate)
                self._metrics.reloads["loaded"].inc()
            elif self.current and self.current.source != candidate.source:  # served from the cache until now
                self.current = replace(self.current, source=candidate.source)
                logger.info("Version %s is still the champion of %s", self.current.version, candidate.source)
        except (SourceError, UnreadableError, UnverifiedError) as error:
            self._report(str(error), getattr(error, "reason", ""))
            self._metrics.reloads["unavailable"].inc()
            if self.current is None:
                self.serve_cached()
                self.problem = str(error)
            return False
        except ModelError as refusal:
            self._refused, self._refusal = (candidate.key, candidate.digest), f"refused: {refusal}"
            self._metrics.reloads["refused"].inc()
            self._report(self._refusal)
            return False
        self._refused = None
        self.problem = self._reported = None
        return True

    def _swap(self, candidate: Candidate) -> None:
        model = self._load(candidate)
        served = Served(
            model,
            candidate.version or model.digest[:12],
            candidate.source,
            _now(),
        )
        self.problem = None  # before the model is visible: no answer shows it as still being verified
        self.current, self._serving_key = served, candidate.key
        self._loaded.set()
        self._metrics.set_model(served.version, model.metadata["recipe"], model.form)
        try:
            self._source.remember(candidate, model.digest)
        except OSError as error:
            logger.warning("Cannot update the cache: %s", error)
        metadata = model.metadata
        logger.info(
            "Model loaded: version %s, recipe %s, test accuracy %.2f %%, data %s (%s), from %s",
            served.version,
            metadata["recipe"],
            100 * float(metadata["test_accuracy"]),
            model.form.dataset,
            model.subset,
            served.source,
        )
        if model.subset == TENTH:
            logger.warning("The model in service was %s", TENTH_NOTE)

    def _load(self, candidate: Candidate) -> Model:
        content = b""
        try:
            path = candidate.fetch()
            content = read_file(path)
            return self._verified(candidate, path, content)
        except ModelError as refusal:
            if candidate.download_again is None:
                raise
            # If only the cached file or its transfer is damaged, refusing the version would block it forever.
            logger.warning("The model is refused and downloaded again: %s", refusal)
            path = candidate.download_again()
            if (downloaded := read_file(path)) == content:
                raise
            return self._verified(candidate, path, downloaded)

    def _verified(self, candidate: Candidate, path: Path, content: bytes) -> Model:
        def begins() -> None:
            what = f"version {candidate.version} of " if candidate.version else ""
            self.problem = f"verifying {what}{candidate.source} since {_now()}."

        found, expected = hashlib.sha256(content).hexdigest(), candidate.digest
        if expected is not None and found != expected.lower():
            raise ModelError(
                f"{path}, version {candidate.version}, has the SHA-256 {found[:12]}…, but {expected[:12]}… is expected."
            )
        self._verifier.verify(path, content, begins)
        return Model.parse(path, content, self._settings.threads)

    def serve_cached(self) -> None:
        """Serve the last good model, if its file is in the cache and passes its checks."""
        candidate = self._source.last_good()
        if candidate is None:
            return
        try:
            self._swap(candidate)
            self._metrics.reloads["cached"].inc()
        except (ModelError, UnverifiedError) as refusal:
            self._metrics.reloads["refused"].inc()
            self.problem = f"the cached model is refused: {refusal}"
            logger.error("The cached model is refused: %s", refusal)

    def _report(self, problem: str, reason: str = "") -> None:
        """Make `problem` public; log it with its reason if the last report was another one."""
        self.problem = problem
        line = f"{problem.rstrip('.')}: {reason}" if reason else problem.rstrip(".")
        # A library's message may contain a number that differs each time, such as an address in memory.
        if (same := re.sub(r"0x[0-9a-f]+|\d+", "", line)) != self._reported:
            kept = f"; version {self.current.version} keeps serving" if self.current else ""
            logger.error("Model not updated: %s%s", line, kept)
        self._reported = same

    def _follow(self) -> None:
        # The first query takes seconds, because it imports MLflow: serve the cached model meanwhile.
        self._run(self.serve_cached)
        if self.current:
            self._tried.set()
            self.problem = "the model is served from the cache until the registry answers."
        retry = FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            done = self._run(self.refresh)
            self._tried.set()
            self._stopping.wait(self._settings.poll_seconds if done else min(retry, self._settings.poll_seconds))
            retry = FIRST_RETRY_SECONDS if done else min(2 * retry, self._settings.poll_seconds)

    def _run(self, update: Callable[[], bool | None]) -> bool:
        """Run one update; log any failure, so that the thread survives and the service receives later models."""
        try:
            return bool(update())
        except Exception as error:
            if (text := redact("".join(traceback.format_exception(error)))) != self._reported:
                logger.error("Updating the model failed: %s\n%s", one_line(error), text)
            self._reported = text
            self.problem = "updating the model failed; the log has the reason."
            return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
