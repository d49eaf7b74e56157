"""BentoML as its documentation shows it: a batchable api with its adaptive batching, and everything at its default.

A batch of bytes is nothing that BentoML can join, so raw bodies come as its documentation takes files: one by one.
"""

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType

from benchmarks.servers import session


@bentoml.service
class Documented:
    """Reads digits; answers with probabilities, [n, 10]."""

    def __init__(self) -> None:
        self.session = session.open_session()

    @bentoml.api(batchable=True)
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Answer `{"images": [...]}`."""
        return session.predict(self.session, images.astype(np.uint8))

    @bentoml.api(route="/predict/raw")
    def predict_raw(self, images: Annotated[Path, ContentType("application/octet-stream")], /) -> np.ndarray:
        """Answer 784 bytes an image."""
        return session.predict(self.session, np.fromfile(images, np.uint8).reshape(-1, 28, 28))
