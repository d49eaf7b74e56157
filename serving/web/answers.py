"""Responses of the service's own routes, as the two ASGI messages that carry them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import orjson
from starlette.types import Send

from serving.contract import MNIST, Form, Probabilities
from serving.model.store import Store

Header = tuple[bytes, bytes]

JSON = b"application/json"
PROBABILITIES = b',"probabilities":['  # in an answer, after the confidence
FAILED = "the service failed; its log has the traceback."


class Answer(NamedTuple):
    """A response; `version` names the model that computed it, if one did."""

    body: bytes
    version: str | None = None
    content_type: bytes = JSON
    status: int = 200
    headers: tuple[Header, ...] = ()

    async def send(self, send: Send, current: str) -> None:
        """Send the response; `current` is the version of the model in service, for responses without their own."""
        headers = [
            (b"content-type", self.content_type),
            (b"x-model-version", (self.version or current).encode()),
            *self.headers,
        ]
        if self.status != 304:
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def version_in_service(store: Store) -> str:
    """Return the value of `X-Model-Version` for responses that no model computed."""
    return served.version if (served := store.current) else "none"


def error(status: int, sentence: str, *headers: Header) -> Answer:
    """Build an error response: a JSON object with one sentence."""
    return Answer(orjson.dumps({"error": sentence}), status=status, headers=headers)


def encode(probabilities: Probabilities, form: Form = MNIST) -> bytes:
    """Encode float32 `[n, classes]` as a JSON list of one object for each image, in order.

    Its fields are `digit` if the classes are digits, `confidence`, `probabilities`, `class` and `label`.
    """
    heads, tails = _fragments(form)
    # orjson writes the shortest digits of a float32, not those of the nearest double. One call for all rows takes less
    # time than an object for each.
    rows = orjson.dumps(probabilities, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    parts: list[bytes] = []
    for best, row in zip(probabilities.argmax(1).tolist(), rows, strict=True):
        parts += heads[best], row.split(b",", best + 1)[best], PROBABILITIES, row, tails[best]
    return b"[" + b"".join(parts)[:-1] + b"]"


@lru_cache(maxsize=4)
def _fragments(form: Form) -> tuple[list[bytes], list[bytes]]:
    """Return the JSON before the confidence and after the probabilities, for each class."""
    numbers = range(len(form.classes))
    heads = [(b'{"digit":%d,"confidence":' % number) if form.has_digits else b'{"confidence":' for number in numbers]
    tails = [b'],"class":%d,"label":%b},' % (number, orjson.dumps(form.classes[number])) for number in numbers]
    return heads, tails
