"""Contract of the ONNX file as the service relies on it; docs/architecture.md describes it."""

import numpy as np
from numpy.typing import NDArray

CONTRACT = "1"
SIDE = 28  # pixels
PIXELS = SIDE * SIDE
CLASSES = 10
GOLDEN_TOLERANCE = 1e-4

# Metadata that every file has: as text, and as numbers.
TEXTS = ("run_id", "recipe", "network", "data", "data_digest", "code_digest", "fingerprint", "created")
NUMBERS = ("parameters", "mean", "std", "temperature", "validation_accuracy", "test_accuracy")
TENTH = "tenth"  # the metadata `data` of a model that was trained on the bundled tenth of MNIST

Images = NDArray[np.uint8]  # [batch, 28, 28]: 0 = background, 255 = ink
Probabilities = NDArray[np.float32]  # [batch, 10]: rows sum to 1


def number(name: str, text: str) -> int | float:
    """Parse one of the metadata `NUMBERS`.

    Raises:
        ValueError: `text` is not a number of the type that `name` has.
    """
    return int(text) if name == "parameters" else float(text)
