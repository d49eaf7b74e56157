"""The BentoML service: `bentoml serve serving.service:Digits`."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Annotated

import bentoml
import numpy as np
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from serving.contract import Images
from serving.inference.batching import Batcher
from serving.inference.cores import usable_cores
from serving.inference.explain import Explainer
from serving.model.store import Store
from serving.monitoring.metrics import Metrics
from serving.settings import SettingsError, read_settings
from serving.web import connections
from serving.web.front import InFront
from serving.web.pages import Pages
from serving.web.routes import ShortPath
from serving.web.traffic import Traffic

try:
    SETTINGS = read_settings()
except SettingsError as error:
    # BentoML imports this module before it starts anything: a wrong setting ends there, with one sentence.
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2) from None

WORKERS = max(1, usable_cores() // SETTINGS.threads) if SETTINGS.workers == "auto" else SETTINGS.workers

logger = logging.getLogger("bentoml.digits")

connections.install(SETTINGS.client_seconds)

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
    # BentoML's own counting, access log and tracing together cost a request more time than the model does. Traffic
    # counts under the same names, and writes an access log that has the id of the request, which BentoML's has not.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"sample_rate": 1.0} if SETTINGS.tracing else {"excluded_urls": ".*"},
)
class Digits:
    """Reads handwritten digits: 28x28 images or pictures in, probabilities out.

    BentoML's adaptive batching (`batchable=True`) is not used: after a burst its dispatcher makes lone requests
    wait. `serving.batching` shares calls between clients without that; `SERVING_QUEUE_IMAGES` bounds it.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.store = Store(SETTINGS, self.metrics)
        self.batcher = Batcher(lambda: self.store.current, SETTINGS.queue_images, self.metrics, connections.is_alone)
        self.explainer = Explainer(lambda: self.store.current, SETTINGS.threads)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Begin to load the model; the server answers meanwhile, and is not ready."""
        connections.allow_as_many_as_possible()
        # What is imported stays: the collector need not walk over it again while requests wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        logger.info("started; the model comes from %s", SETTINGS.model or "the registry")
        if WORKERS * SETTINGS.threads > (cores := usable_cores()):
            logger.warning("%d workers of %d threads share %d cores", WORKERS, SETTINGS.threads, cores)
        self.store.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Stop following the registry, and leave nothing uncounted to the other workers."""
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
        """Say which digits the images show: each image is 28 rows of 28 integers, 0 = background, 255 = ink."""
        # Requests over HTTP are answered by ShortPath: this describes them, and answers callers in Python.
        pixels: Images = np.asarray(images, np.uint8)
        if pixels.shape[1:] != (28, 28):
            raise ValueError(f"images are {pixels.shape}, expected [n, 28, 28]")
        answer = await self.batcher.submit(pixels)
        return [
            Digit(digit=int(row.argmax()), confidence=float(row.max()), probabilities=row.tolist())
            for row in answer.probabilities
        ]


def wrap(application: ASGIApp) -> ASGIApp:
    """What every request passes first."""
    return Traffic(ShortPath(Pages(application), SETTINGS), SETTINGS.access_log)


if SETTINGS.tracing:  # which is a middleware of BentoML's: only what stands behind it is traced
    Digits.add_asgi_middleware(wrap)  # type: ignore[attr-defined]
else:
    Digits.add_asgi_middleware(InFront, wrap=wrap)  # type: ignore[attr-defined]
