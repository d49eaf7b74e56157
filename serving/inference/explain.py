"""Why the model answers as it does: its feature maps, and which pixels speak for the answer.

The saliency is by occlusion: M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks" (2014),
section 4.2. A square of background is put over the image, place after place: where the answer suffers, it looked.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray

from serving.contract import SIDE, Images, Probabilities
from serving.decoding.pictures import FAINTEST
from serving.errors import RequestError
from serving.inference.batching import IMAGES_PER_CALL, NoModelError, OverloadedError
from serving.model.onnx_file import Model, open_session
from serving.model.pruning import keep_outputs
from serving.model.store import Served

# Pixels of the square's side, a little more than a stroke is wide, and from one place to the next.
SQUARE = 4
STEP = 2
# The confidence from which on an answer counts as sure, if the image looks like a digit at all: a network is sure of
# much that it never learned. A digit's strokes are at full strength in the middle and a few pixels wide; a photograph
# or a page of text, shrunk to 20 pixels, is grey, a block, or lines of specks. 99.3 % of MNIST's digits have this share
# of their ink in pixels above STRONG, and this much difference between neighbouring pixels, for each unit of ink.
SURE = 0.9
STRONG = 200
STRONG_SHARE = 0.4
LEAST_EDGES, MOST_EDGES = 0.4, 1.75
# Explanations that may wait or be made: a second's worth of them on one slow core.
QUEUE = 16
# Probabilities of no more than this count as this: beyond it float32 says little, and the logarithm nothing.
TINIEST = 1e-9

Image = NDArray[np.uint8]
Saliency = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureMaps:
    """What one convolution layer makes of an image.

    Attributes:
        name: the model's output, `conv1` and so on.
        largest: the activation that 255 stands for; 0 where all are 0.
        values: uint8 `[channels, height, width]`, in proportion to the activations after the ReLU.
    """

    name: str
    largest: float
    values: NDArray[np.uint8]


class Explainer:
    """Explains one image after the other, in a thread of its own, so that predictions need not wait for it.

    The session that computes feature maps is made when they are first asked for, and anew when another model is in
    service. That which answers predictions stays as it is.

    Args:
        served: returns the model in service; read once per explanation.
        threads: ONNX Runtime's threads within one call.
    """

    def __init__(self, served: Callable[[], Served | None], threads: int) -> None:
        self._served = served
        self._threads = threads
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explaining")
        self._opened: tuple[Model, onnxruntime.InferenceSession] | None = None
        self._waiting = 0

    def submit(self, decode: Callable[[], Images]) -> asyncio.Future[tuple[bytes, str]]:
        """Queue an explanation; must be called on the event loop.

        Args:
            decode: makes the image, uint8 `[1, 28, 28]`; called in the thread, what it raises is handed on.

        Returns:
            A future of the answer's JSON and the version of the model that it is about. Its exceptions are
            `NoModelError`, and `RequestError`: 422 more than one image or no ink, 501 a model without feature maps.

        Raises:
            OverloadedError: `QUEUE` explanations wait already.
        """
        if self._waiting >= QUEUE:
            raise OverloadedError
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._explain, decode)
        running.add_done_callback(self._done)
        return running

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _done(self, _running: asyncio.Future[tuple[bytes, str]]) -> None:
        self._waiting -= 1

    def _explain(self, decode: Callable[[], Images]) -> tuple[bytes, str]:
        served = self._served()
        if served is None:
            raise NoModelError
        model = served.model
        if not model.feature_maps:
            raise RequestError(
                501,
                f"the model in service, {model.metadata['network']} of version {served.version}, has no feature maps; "
                "/predict answers, /explain cannot.",
            )
        images = decode()
        if len(images) != 1:
            raise RequestError(422, f"{len(images)} images are too many to explain at once; expected exactly one.")
        image = images[0]
        if image.max() < FAINTEST:
            raise RequestError(422, "the image has no ink; expected one digit, 0 = background, 255 = ink.")
        probabilities, values = saliency(model.predict, image)
        return encode(image, probabilities, values, feature_maps(self._session(model), model, image)), served.version

    def _session(self, model: Model) -> onnxruntime.InferenceSession:
        if self._opened is None or self._opened[0] is not model:
            self._opened = None  # its memory goes before that of the next one comes
            self._opened = model, open_session(keep_outputs(model.content, *model.feature_maps), self._threads)
        return self._opened[1]


def saliency(predict: Callable[[Images], Probabilities], image: Image) -> tuple[Probabilities, Saliency]:
    """Say how much each pixel speaks for the model's answer.

    Squares without ink are left out: covering them changes nothing.

    Args:
        predict: the model, uint8 `[n, 28, 28]` to float32 `[n, 10]`.
        image: uint8 `[28, 28]`.

    Returns:
        float32 `[10]`, the probabilities, and float32 `[28, 28]`: by how much the log-odds of the answer drop when the
        pixel is covered, the mean over all squares that cover it. Negative where covering makes the answer surer.
    """
    squares = _squares()
    squares = squares[(squares & (image > 0)).any((1, 2))]
    covered = np.concatenate([image[None], np.where(squares, np.uint8(0), image)])
    parts = [predict(covered[begin : begin + IMAGES_PER_CALL]) for begin in range(0, len(covered), IMAGES_PER_CALL)]
    probabilities = np.concatenate(parts)
    odds = _log_odds(probabilities, int(probabilities[0].argmax()))
    drops = np.tensordot(odds[0] - odds[1:], squares, 1) / _squares().sum(0)
    return probabilities[0], drops.astype(np.float32)


def feature_maps(session: onnxruntime.InferenceSession, model: Model, image: Image) -> list[FeatureMaps]:
    """Compute the feature maps of all convolution layers for one image, uint8 `[28, 28]`."""
    layers = []
    found = session.run(list(model.feature_maps), {"images": image[None]})
    for name, activations in zip(model.feature_maps, found, strict=True):
        maps = np.asarray(activations, np.float32)[0]
        largest = float(maps.max())
        values = np.rint(np.maximum(maps, 0) * (255 / largest if largest > 0 else 0)).astype(np.uint8)
        layers.append(FeatureMaps(name, largest, values))
    return layers


def is_sure(image: Image, confidence: float) -> bool:
    """Say whether the model is confident, and the image, uint8 `[28, 28]` with some ink, looks like a digit."""
    grey = image.astype(np.float32)
    ink = grey.sum()
    strong = grey[grey > STRONG].sum() / ink
    edges = sum(np.abs(np.diff(grey, axis=axis)).sum() for axis in (0, 1)) / ink
    return bool(confidence >= SURE and strong >= STRONG_SHARE and LEAST_EDGES <= edges <= MOST_EDGES)


def encode(image: Image, probabilities: Probabilities, saliency: Saliency, layers: list[FeatureMaps]) -> bytes:
    """Write an explanation as JSON; `/docs.json` describes it."""
    digit = int(probabilities.argmax())
    answer = {
        "digit": digit,
        "confidence": probabilities[digit],
        "probabilities": probabilities,
        "sure": is_sure(image, probabilities[digit]),
        "image": image,
        "saliency": saliency.round(3),
        "feature_maps": [
            {
                "name": layer.name,
                "shape": layer.values.shape,
                "largest": layer.largest,
                "values": base64.b64encode(layer.values.tobytes()).decode(),
            }
            for layer in layers
        ],
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


@cache
def _squares() -> NDArray[np.bool_]:
    """All places of the square, bool `[places, 28, 28]`: each pixel is covered equally often, also at the edge."""
    # One place may stick out at each end, so that all pixels are under as many squares.
    begins = np.arange(STEP - SQUARE, SIDE, STEP)
    lines = np.array([(np.arange(SIDE) >= begin) & (np.arange(SIDE) < begin + SQUARE) for begin in begins])
    squares: NDArray[np.bool_] = lines[:, None, :, None] & lines[None, :, None, :]
    return squares.reshape(-1, SIDE, SIDE)


def _log_odds(probabilities: Probabilities, digit: int) -> NDArray[np.float64]:
    answer = probabilities[:, digit].astype(np.float64)
    # Summed, not 1 - answer, of which nothing would be left when the answer is nearly sure.
    others = np.delete(probabilities, digit, 1).sum(1, dtype=np.float64)
    return np.asarray(np.log(np.maximum(answer, TINIEST)) - np.log(np.maximum(others, TINIEST)))
