"""Responses of the service's own routes, as the two ASGI messages that carry them."""

from __future__ import annotations

from typing import NamedTuple

import orjson
from starlette.types import Send

from serving.model.store import Store

Header = tuple[bytes, bytes]

JSON = b"application/json"
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
