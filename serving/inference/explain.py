"""Explanation of one prediction: feature maps, and a saliency map of the pixels that support the answer.

Saliency is computed by occlusion: M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks"
(2014), section 4.2. A square of background moves over the image; covering pixels that matter lowers the answer's odds.
The background of strokes is 0, that of other pictures the mean colour of their border.
"""

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray

from preparation.stroke import FAINTEST
from serving.contract import MNIST, Form, Images, Probabilities
from serving.errors import RequestError
from serving.inference.batching import IMAGES_PER_CALL, NoModelError, OverloadedError, ShapeError
from serving.model.onnx_file import Model, open_session
from serving.model.pruning import keep_outputs
from serving.model.store import Served

SQUARE = 4  # side of the occluding square in pixels, a little more than the width of a stroke
STEP = 2  # pixels between two positions of the square
# Larger images have the square at every fourth pixel, so that none has more than 289 positions.
LARGE_SIDE, LARGE_STEP = 32, 4
# An answer is sure at this confidence, if the image also looks like a digit: networks are overconfident on inputs
# unlike their training data. A digit's strokes reach full intensity and are a few pixels wide. A photograph or a page
# of text, scaled down to 20 pixels, turns into grey, a block or lines of specks. 99.3 % of MNIST's digits have at least
# STRONG_SHARE of their ink in pixels above STRONG, and edges (differences between neighbours) per ink in this range.
SURE = 0.9
STRONG = 200
STRONG_SHARE = 0.4
LEAST_EDGES, MOST_EDGES = 0.4, 1.75
# Explanations waiting or in progress at most: about a second of work on one slow core.
QUEUE = 16
# Lower bound of probabilities before the logarithm: smaller float32 values carry little information.
TINIEST = 1e-9

Image = NDArray[np.uint8]
Saliency = NDArray[np.float32]

NOTHING: Image = np.zeros((), np.uint8)


@dataclass(frozen=True)
class FeatureMaps:
    """Activations of one convolution layer for one image.

    Attributes:
        name: name of the model's output, such as `conv1`.
        largest: the activation that 255 represents; 0 if all are 0.
        values: uint8 `[channels, height, width]`, proportional to the activations after the ReLU.
    """

    name: str
    largest: float
    values: NDArray[np.uint8]


class Explainer:
    """Explains images one at a time in a thread of its own, so that predictions do not wait.

    Feature maps are computed by a second ONNX Runtime session, opened on first use and again after each swap.

    Args:
        served: returns the model in service; read once per explanation.
        threads: number of ONNX Runtime threads per call.
    """

    def __init__(self, served: Callable[[], Served | None], threads: int) -> None:
        self._served = served
        self._threads = threads
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explaining")
        self._opened: tuple[Model, onnxruntime.InferenceSession] | None = None
        self._waiting = 0

    def submit(self, decode: Callable[[], Images]) -> asyncio.Future[tuple[bytes, str]]:
        """Queue an explanation; call this on the event loop only.

        Args:
            decode: returns the image, uint8 `[1, *shape]`; called in the thread, its exceptions reach the future.

        Returns:
            A future of the answer's JSON and the version of the explained model. It raises `NoModelError`,
            `ShapeError`, and `RequestError`: 422 more than one image or no ink, 501 a model without feature maps.

        Raises:
            OverloadedError: `QUEUE` explanations are waiting.
        """
        if self._waiting >= QUEUE:
            raise OverloadedError
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._explain, decode)
        running.add_done_callback(self._done)
        return running

    def close(self) -> None:
        """Shut down the thread and cancel waiting explanations."""
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
        image, form = images[0], model.form
        if image.shape != form.shape:
            raise ShapeError(image.shape, form)
        if form.has_strokes and image.max() < FAINTEST:
            raise RequestError(422, "the image has no ink; expected one digit, 0 = background, 255 = ink.")
        probabilities, values = saliency(model.predict, image, background(image, form))
        layers = feature_maps(self._session(model), model, image)
        return encode(image, probabilities, values, layers, form), served.version

    def _session(self, model: Model) -> onnxruntime.InferenceSession:
        if self._opened is None or self._opened[0] is not model:
            self._opened = None  # frees the old session's memory before the new one is opened
            self._opened = model, open_session(keep_outputs(model.content, *model.feature_maps), self._threads)
        return self._opened[1]


def background(image: Image, form: Form) -> Image:
    """Return what covers a part of the image: uint8 `[]` for grey, `[3]` for colour."""
    if form.has_strokes:
        return NOTHING
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    return np.asarray(np.rint(border.mean(0)), np.uint8)


def saliency(
    predict: Callable[[Images], Probabilities], image: Image, cover: Image = NOTHING
) -> tuple[Probabilities, Saliency]:
    """Compute how much each pixel contributes to the model's answer.

    Squares of the background alone are skipped, because covering them changes nothing.

    Args:
        predict: the model, uint8 `[n, *shape]` to float32 `[n, classes]`.
        image: uint8 `[height, width]` or `[height, width, 3]`.
        cover: the colour of the squares, see `background`.

    Returns:
        The probabilities, float32 `[classes]`, and the saliency, float32 `[height, width]`: the drop in the answer's
        log-odds when a pixel is covered, as the mean over all squares that cover it. Negative values count against the
        answer.
    """
    height, width = image.shape[:2]
    every = _squares(height, width)
    differs = image != cover
    squares = every[(every & (differs if image.ndim == 2 else differs.any(2))).any((1, 2))]
    masks = squares if image.ndim == 2 else squares[..., None]
    covered = np.concatenate([image[None], np.where(masks, cover, image)])
    parts = [predict(covered[begin : begin + IMAGES_PER_CALL]) for begin in range(0, len(covered), IMAGES_PER_CALL)]
    probabilities = np.concatenate(parts)
    odds = _log_odds(probabilities, int(probabilities[0].argmax()))
    drops = np.tensordot(odds[0] - odds[1:], squares, 1) / every.sum(0)
    return probabilities[0], drops.astype(np.float32)


def feature_maps(session: onnxruntime.InferenceSession, model: Model, image: Image) -> list[FeatureMaps]:
    """Compute the feature maps of all convolution layers for one image, uint8 `[*shape]`."""
    layers = []
    found = session.run(list(model.feature_maps), {"images": image[None]})
    for name, activations in zip(model.feature_maps, found, strict=True):
        maps = np.asarray(activations, np.float32)[0]
        largest = float(maps.max())
        values = np.rint(np.maximum(maps, 0) * (255 / largest if largest > 0 else 0)).astype(np.uint8)
        layers.append(FeatureMaps(name, largest, values))
    return layers


def is_sure(image: Image, confidence: float, form: Form = MNIST) -> bool:
    """Return whether the model is confident and, if it reads strokes, the image with some ink looks like a digit."""
    if confidence < SURE or not form.has_strokes:
        return bool(confidence >= SURE)
    grey = image.astype(np.float32)
    ink = grey.sum()
    strong = grey[grey > STRONG].sum() / ink
    edges = sum(np.abs(np.diff(grey, axis=axis)).sum() for axis in (0, 1)) / ink
    return bool(strong >= STRONG_SHARE and LEAST_EDGES <= edges <= MOST_EDGES)


def encode(
    image: Image, probabilities: Probabilities, saliency: Saliency, layers: list[FeatureMaps], form: Form
) -> bytes:
    """Encode an explanation as JSON; `/docs.json` describes it."""
    best = int(probabilities.argmax())
    answer = {
        **({"digit": best} if form.has_digits else {}),
        "confidence": probabilities[best],
        "probabilities": probabilities,
        "class": best,
        "label": form.classes[best],
        "sure": is_sure(image, probabilities[best], form),
        "image": np.ascontiguousarray(image),
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


def step_of(height: int, width: int) -> int:
    """Return the pixels between two positions of the square; the square's side is a multiple of them."""
    return STEP if max(height, width) <= LARGE_SIDE else LARGE_STEP


@lru_cache(maxsize=4)
def _squares(height: int, width: int) -> NDArray[np.bool_]:
    """Return the masks of all positions of the square, bool `[positions, height, width]`."""
    step = step_of(height, width)
    # Squares may extend past the edge, so that the same number of squares covers each pixel.
    rows, columns = (
        np.array([(np.arange(side) >= begin) & (np.arange(side) < begin + SQUARE) for begin in begins])
        for side in (height, width)
        for begins in [np.arange(step - SQUARE, side, step)]
    )
    squares: NDArray[np.bool_] = rows[:, None, :, None] & columns[None, :, None, :]
    return squares.reshape(-1, height, width)


def _log_odds(probabilities: Probabilities, best: int) -> NDArray[np.float64]:
    answer = probabilities[:, best].astype(np.float64)
    # Sum the others: 1 - answer would lose all precision when the answer is close to 1.
    others = np.delete(probabilities, best, 1).sum(1, dtype=np.float64)
    return np.asarray(np.log(np.maximum(answer, TINIEST)) - np.log(np.maximum(others, TINIEST)))
