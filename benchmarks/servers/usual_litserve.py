"""LitServe with its batching: `python -m benchmarks.servers.usual_litserve PORT`.

Requests hold several images each, so its hooks join them and take them apart again. It takes JSON, no raw bodies.
"""

import sys

import litserve
import numpy as np

from benchmarks.servers.session import answers, open_session, predict


class Digits(litserve.LitAPI):
    """Reads digits."""

    def setup(self, device):
        """Load the model."""
        self.session = open_session()

    def decode_request(self, request):
        """Take the images out of `{"images": [...]}`."""
        return np.asarray(request["images"], np.uint8)

    def batch(self, inputs):
        """Keep the images of each request apart, until `predict`."""
        return inputs

    def predict(self, batch):
        """Ask the model once for all requests."""
        ends = np.cumsum([len(images) for images in batch])[:-1]
        return np.split(predict(self.session, np.concatenate(batch)), ends)

    def unbatch(self, output):
        """One for each request already."""
        return output

    def encode_response(self, output):
        """Make an answer of probabilities."""
        return answers(output)


if __name__ == "__main__":
    server = litserve.LitServer(Digits(max_batch_size=64), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
