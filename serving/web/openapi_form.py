"""The form of a model in `/docs.json`: schemas, examples and clauses, by the names of their places."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from serving.contract import Form, Images
from serving.inference.explain import (
    LEAST_EDGES,
    MOST_EDGES,
    SQUARE,
    STRONG,
    STRONG_SHARE,
    SURE,
    step_of,
)

BEST, CONFIDENCE = 7, 0.91  # of the example, which is a digit 7
SALIENCY = 0.251
SURE_ANSWER = f"Whether the confidence is at least {SURE}"
STROKES = (
    f"{SURE_ANSWER} and the image has strokes like those of a digit: at least {STRONG_SHARE:.0%} of the ink in pixels "
    f"above {STRONG}, and differences between neighbouring pixels of {LEAST_EDGES} to {MOST_EDGES} times the ink."
)
# Clauses by preparation.
CLAUSES = {
    "stroke": {
        "scale": ", 0 = background, 255 = ink",
        "prepared": "one drawing or digit each, dark on light or light on dark",
        "ink": "; it must have ink",
        "sure": STROKES,
    },
    "fit": {
        "scale": ", from 0 to 255",
        "prepared": "each shown whole, scaled to the size of the images and padded",
        "ink": "",
        "sure": f"{SURE_ANSWER}.",
    },
}
LAYOUTS = {
    1: ("{width} integers", "row by row"),
    3: ("{width} pixels, each 3 integers for red, green and blue", "row by row, red, green and blue of each pixel"),
}


def values_of(form: Form, picture: str) -> dict[str, Any]:
    """Return the values of a form.

    Args:
        form: of the model in service.
        picture: the example of a file, whose bytes are those of ASCII characters.
    """
    half = _sized(picture, form)
    row, layout = LAYOUTS[form.channels]
    return {
        "dataset": form.dataset,
        "classes": form.classes,
        "height": form.height,
        "width": form.width,
        "channels": form.channels,
        "preparation": dict(form.preparation),
        "count": len(form.classes),
        "pixels": form.pixels,
        "rows": f"{form.height} rows of {row.format(width=form.width)}",
        "layout": layout,
        "square": SQUARE,
        "step": step_of(form.height, form.width),
        "image_schema": _nested({"maximum": 255, "minimum": 0, "type": "integer"}, form.shape),
        "image": (2 * half).tolist(),
        "raw_image": half.tobytes().decode(),
        "saliency": np.where(half.reshape(*form.shape[:2], -1).any(2), SALIENCY, 0.0).tolist(),
        "answer": _answer(form),
        **CLAUSES[form.preparation["name"]],
    }


def answer_properties(form: Form) -> dict[str, Any]:
    """Return the schema of each field of an answer."""
    last = len(form.classes) - 1
    share = {"maximum": 1, "minimum": 0, "type": "number"}
    digit = {"description": "The most probable digit.", "maximum": 9, "minimum": 0, "type": "integer"}
    return {
        **({"digit": digit} if form.has_digits else {}),
        "confidence": {"description": "The calibrated probability of the most probable class.", **share},
        "probabilities": {
            "description": "The probabilities of the classes, in the order of their numbers.",
            **_nested(share, (last + 1,)),
        },
        "class": {
            "description": "Number of the most probable class.",
            "maximum": last,
            "minimum": 0,
            "type": "integer",
        },
        "label": {"description": "Its name.", "enum": form.classes, "type": "string"},
    }


def _answer(form: Form) -> Mapping[str, Any]:
    best = min(BEST, len(form.classes) - 1)
    probabilities = [round((1 - CONFIDENCE) / (len(form.classes) - 1), 4)] * len(form.classes)
    probabilities[best] = CONFIDENCE
    return {
        **({"digit": best} if form.has_digits else {}),
        "confidence": CONFIDENCE,
        "probabilities": probabilities,
        "class": best,
        "label": form.classes[best],
    }


def _nested(schema: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the schema of nested lists of this shape."""
    for length in reversed(shape):
        schema = {"items": schema, "maxItems": length, "minItems": length, "type": "array"}
    return dict(schema)


def _sized(picture: str, form: Form) -> Images:
    """Scale the example picture to the form: each value is below 128, so that the bytes are a text."""
    with Image.open(io.BytesIO(picture.encode())) as opened:
        grey = np.asarray(opened.convert("L"))
    rows, columns = (np.arange(to) * side // to for side, to in zip(grey.shape, form.shape, strict=False))
    sized = grey[np.ix_(rows, columns)]
    return sized if form.channels == 1 else np.repeat(sized[..., None], form.channels, axis=2)
