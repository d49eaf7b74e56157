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
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from serving.contract import Images
from serving.inference.batching import Batcher
from serving.inference.cores import usable_cores
from serving.inference.explain import Explainer
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

Row = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=28, max_length=28)]
Image = Annotated[list[Row], Field(min_length=28, max_length=28)]


class Digit(BaseModel):
    """The answer for one image."""

    digit: int = Field(description="The most probable digit.", ge=0, le=9)
    confidence: float = Field(description="Its calibrated probability.", ge=0, le=1)
    probabilities: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        description="The probabilities of the digits 0 to 9.", min_length=10, max_length=10
    )


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
    """Reads handwritten digits: 28x28 images or pictures in, probabilities out.

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
    ) -> list[Digit]:
        """Read the digits on images. Each image is 28 rows of 28 integers, 0 = background, 255 = ink."""
        # ShortPath answers requests over HTTP. This method declares the API to BentoML and serves calls in Python.
        pixels: Images = np.asarray(images, np.uint8)
        if pixels.shape[1:] != (28, 28):
            raise ValueError(f"images are {pixels.shape}, expected [n, 28, 28]")
        answer = await self.batcher.submit(pixels)
        return [
            Digit(digit=int(row.argmax()), confidence=float(row.max()), probabilities=row.tolist())
            for row in answer.probabilities
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
