"""Bodies of requests, read within three limits: bytes of one, bytes of all together, and a client's time."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope

from serving.errors import HUNG_UP, RequestError

# All bodies that are being read or answered may take this many times the memory of the largest one.
LARGEST_AT_ONCE = 4
# Bodies that are being read are looked at this many times within the seconds that they have.
LOOKS = 10
TAKEN = "digits.body_bytes"


class Bodies:
    """Reads bodies, and knows how much memory all of them take.

    Args:
        limit: bytes that one body may have.
        seconds: time in which a body must have arrived.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._room = LARGEST_AT_ONCE * limit
        # A timer per request would cost more than all else here: one for all looks at who began how many looks ago.
        self._reading: dict[asyncio.Task[Any] | None, int] = {}
        self._looks = 0
        self._looking = False

    def check_length(self, length: int) -> None:
        """Raise `RequestError` (413) when a body of `length` bytes is larger than the limit."""
        if length > self._limit:
            raise RequestError(
                413, f"the body is too large: at most {self._limit} bytes are taken (SERVING_MAX_BODY_BYTES)."
            )

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Read the body of the request of `scope`, whose memory counts until `release`.

        Raises:
            RequestError: 408 it takes too long, 413 it is too large, 499 the client hung up, 503 too many others are
                being read.
        """
        task = asyncio.current_task()
        self._reading[task] = self._looks
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(self._seconds / LOOKS, self._look)
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(HUNG_UP, "the body ended early.")
                chunk = message.get("body", b"")
                size += len(chunk)
                self.check_length(size)
                if len(chunk) > self._room:
                    raise _no_room()
                self._room -= len(chunk)
                scope[TAKEN] = size
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except asyncio.CancelledError:
            if task is None or self._looks - self._reading[task] <= LOOKS:
                raise  # whoever it was had another reason
            task.uncancel()
            raise self._too_slow() from None
        finally:
            del self._reading[task]

    def release(self, scope: Scope) -> None:
        """Give back what the request's body takes; must be called when the request is answered."""
        self._room += scope.pop(TAKEN, 0)

    def _look(self) -> None:
        self._looks += 1
        for task, begun in self._reading.items():
            if task is not None and self._looks - begun == LOOKS + 1:
                task.cancel()
        self._looking = bool(self._reading)
        if self._looking:
            asyncio.get_running_loop().call_later(self._seconds / LOOKS, self._look)

    def _too_slow(self) -> RequestError:
        sentence = f"the body did not arrive within {self._seconds:g} seconds (SERVING_CLIENT_SECONDS)."
        return RequestError(408, sentence, (b"connection", b"close"))


def _no_room() -> RequestError:
    return RequestError(
        503,
        f"the bodies of other requests take {LARGEST_AT_ONCE} times SERVING_MAX_BODY_BYTES already; "
        "ask again in a second.",
        (b"retry-after", b"1"),
    )
