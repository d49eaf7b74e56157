"""The BentoML service: `bentoml serve serving.service:Digits`."""

from __future__ import annotations

import gc
import logging
import sys
from contextlib import suppress
from typing import Annotated

import bentoml
import numpy as np
from bentoml import server_context
from bentoml._internal.container import BentoMLContainer
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.types import ASGIApp

from serving.inference.batching import Batcher
from serving.inference.cores import usable_cores
from serving.inference.explain import Explainer
from serving.model.metadata import SIDES
from serving.model.store import Store
from serving.monitoring.folder import make_folder
from serving.monitoring.logs import set_up
from serving.monitoring.metrics import REASONS, Metrics
from serving.parent import announce_parent, end_with_parent
from serving.settings import SettingsError, listed, read_settings
from serving.web.connections import Connections, raise_file_limit
from serving.web.hosts import Origins
from serving.web.middleware import InFront, Traffic
from serving.web.routes import ShortPath
from serving.web.tokens import read_tokens

try:
    SETTINGS = read_settings()
    if SETTINGS.token_file:
        read_tokens(SETTINGS.token_file)
except SettingsError as error:
    # BentoML imports this module first, so a wrong setting ends the process with one sentence before any start.
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2) from None

set_up(SETTINGS.log_format)

WORKERS = max(1, usable_cores() // SETTINGS.threads) if SETTINGS.workers == "auto" else SETTINGS.workers

# Longest waits for a model before a worker accepts connections: a new service must answer /livez soon, but the other
# workers answer for one that is restarted.
FIRST_SECONDS = 2.0
RESTART_SECONDS = 10.0

logger = logging.getLogger("bentoml.digits")

if server_context.worker_index is None:
    # This is `bentoml serve` itself, before its workers.
    announce_parent()
    # BentoML's own folder for metrics is one for all starts, and each start empties it.
    with suppress(OSError):
        BentoMLContainer.prometheus_multiproc_dir.set(str(make_folder()))
else:
    end_with_parent()

CONNECTIONS = Connections(SETTINGS.client_seconds)
CONNECTIONS.install()

# Of any model; `/docs.json` has the sizes of the one in service.
Level = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[list[Level], Field(min_length=3, max_length=3)]
LEVEL = {"type": "integer", "minimum": 0, "maximum": 255}
# BentoML would show the first type of a union alone.
PIXEL = {**LEVEL, "type": ["integer", "array"], "items": LEVEL, "minItems": 3, "maxItems": 3}
Pixel = Annotated[Level | Colour, WithJsonSchema(PIXEL)]
Row = Annotated[list[Pixel], Field(min_length=SIDES[0], max_length=SIDES[1])]
Image = Annotated[list[Row], Field(min_length=SIDES[0], max_length=SIDES[1])]


class Prediction(BaseModel):
    """The answer for one image."""

    model_config = ConfigDict(serialize_by_alias=True)

    digit: int | None = Field(default=None, description="The most probable digit, if the classes are digits.")
    confidence: float = Field(description="The calibrated probability of the most probable class.", ge=0, le=1)
    probabilities: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        description="The probabilities of the classes, in the order of their numbers."
    )
    number: int = Field(alias="class", description="Number of the most probable class.", ge=0)
    label: str = Field(description="Its name.")


@bentoml.service(
    name="digits",
    workers=WORKERS,
    # BentoML's metrics, access log and tracing take more time per request than the model. `Traffic` counts under the
    # same names, and its access log includes the request id.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"sample_rate": 1.0} if SETTINGS.tracing else {"excluded_urls": ".*"},
)
class Digits:
    """Classifies small images, by default handwritten digits: images or pictures in, probabilities out.

    BentoML's adaptive batching (`batchable=True`) is not used: after a burst its dispatcher delays single requests.
    `serving.inference.batching` batches without that delay; `SERVING_QUEUE_IMAGES` bounds its queue.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.store = Store(SETTINGS, self.metrics)
        self.batcher = Batcher(lambda: self.store.current, SETTINGS.queue_images, self.metrics, CONNECTIONS.is_alone)
        self.explainer = Explainer(lambda: self.store.current, SETTINGS.threads)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Start loading the model in the background; until it is loaded, `/readyz` returns 503.

        The server accepts connections after this method: it waits for the model, if one can be expected soon.
        """
        raise_file_limit()
        # Imported modules stay in memory: freezing them spares the collector from traversing them during requests.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        logger.info("Started; model source: %s", SETTINGS.model or "registry")
        if WORKERS * SETTINGS.threads > (cores := usable_cores()):
            logger.warning("%d workers of %d threads share %d cores", WORKERS, SETTINGS.threads, cores)
        restarted = self.metrics.loaded_before()
        self.store.start()
        self.store.wait(RESTART_SECONDS if restarted else FIRST_SECONDS, for_model=restarted)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Stop following the registry, and write the metrics that the other workers show."""
        self.store.stop()
        self.batcher.close()
        self.explainer.close()
        self.metrics.write()

    async def __is_ready__(self) -> bool:
        return self.store.current is not None

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(
        self, images: Annotated[list[Image], Field(min_length=1, max_length=SETTINGS.max_images)]
    ) -> list[Prediction]:
        """Classify images: rows of integers from 0 to 255 or, in colour, of three of them for each pixel."""
        # ShortPath answers requests over HTTP. This method declares the API to BentoML and serves calls in Python.
        answer = await self.batcher.submit(np.asarray(images, np.uint8))
        return [
            Prediction.model_validate(
                {
                    "digit": best if answer.form.has_digits else None,
                    "confidence": float(row[best]),
                    "probabilities": row.tolist(),
                    "class": best,
                    "label": answer.form.classes[best],
                }
            )
            for best, row in zip(answer.probabilities.argmax(1).tolist(), answer.probabilities, strict=True)
        ]


def build(application: ASGIApp) -> ASGIApp:
    """Put the routes and middlewares of the service in front of an application; BentoML has made the service."""
    parts: Digits = bentoml.get_current_service()
    CONNECTIONS.refused = lambda status: parts.metrics.rejected[REASONS[status]].inc()
    served: ASGIApp = ShortPath(application, SETTINGS, parts)
    if origins := listed(SETTINGS.allowed_origins):
        served = Origins(served, origins)
    return Traffic(served, parts.store, parts.metrics, SETTINGS.access_log)


# BentoML's tracing is a middleware, too: its spans include only the middlewares behind it.
Digits.add_asgi_middleware(InFront, build=build, in_place=SETTINGS.tracing)  # type: ignore[attr-defined]
