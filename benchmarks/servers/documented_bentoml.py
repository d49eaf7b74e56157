"""BentoML as its documentation shows it: a batchable API with adaptive batching, all settings at their defaults.

BentoML cannot batch bytes. Raw bodies are therefore received as files, the way its documentation does it, unbatched.
"""

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType

from benchmarks.servers import session


@bentoml.service
class Documented:
    """Answers images with probabilities, float32 [n, 10]."""

    def __init__(self) -> None:
        self.session = session.open_session()

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Answer `{"images": [...]}`."""
        return session.predict(self.session, images.astype(np.uint8))

    @bentoml.api(route="/predict/raw")  # type: ignore[untyped-decorator]
    def predict_raw(self, images: Annotated[Path, ContentType("application/octet-stream")], /) -> np.ndarray:
        """Answer a body of 784 bytes per image."""
        return session.predict(self.session, np.fromfile(images, np.uint8).reshape(-1, 28, 28))
