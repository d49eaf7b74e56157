"""LitServe with its batching: `python -m benchmarks.servers.usual_litserve PORT`.

A request may hold several images, so the hooks concatenate and split them. It accepts JSON, but no raw bodies.
"""

import sys
from typing import TypeAlias

import litserve  # type: ignore[import-not-found]  # installed only in .venv-servers
import numpy as np
from numpy.typing import NDArray

from benchmarks.servers.session import answers, open_session, predict

Images: TypeAlias = NDArray[np.uint8]
Probabilities: TypeAlias = NDArray[np.float32]


class Digits(litserve.LitAPI):  # type: ignore[misc]  # a base class without types
    """Answers images with digits."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.session = open_session()

    # LitServe makes FastAPI validate annotated requests and answers; without annotations it is faster.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """Read the images of `{"images": [...]}`."""
        return np.asarray(request["images"], np.uint8)

    def batch(self, inputs: list[Images]) -> list[Images]:
        """Keep the images of each request separate until `predict`."""
        return inputs

    def predict(self, batch: list[Images]) -> list[Probabilities]:
        """Run the model once for all requests."""
        ends = np.cumsum([len(images) for images in batch])[:-1]
        return np.split(predict(self.session, np.concatenate(batch)), ends)

    def unbatch(self, output: list[Probabilities]) -> list[Probabilities]:
        """Return the outputs, which `predict` has already split by request."""
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """Convert probabilities to the answer."""
        return answers(output)


if __name__ == "__main__":
    server = litserve.LitServer(Digits(max_batch_size=64), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
