"""Request bodies, read within three limits: bytes of one body, bytes of all bodies, seconds until one has arrived.

Starlette limits the bytes of one body only, and `Request.body()` takes 4 µs more a request. uvicorn has no limit.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive

from serving.errors import HUNG_UP, RequestError

# All bodies in memory together may take this many times the size of the largest one.
LARGEST_AT_ONCE = 4
# The timer checks for slow bodies this many times within the time limit.
CHECKS = 10


class Bodies:
    """Reads bodies and accounts for the memory of all of them.

    Args:
        limit: bytes of one body.
        seconds: time limit for a body to arrive.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._free = LARGEST_AT_ONCE * limit
        # One shared timer expires slow bodies; a timer per request would cost more than the rest of this module.
        self._reading: dict[asyncio.Task[Any] | None, int] = {}  # the number of checks at which each read began
        self._checks = 0
        self._scheduled = False

    def check_length(self, length: int) -> None:
        """Raise `RequestError` (413) if a body of `length` bytes exceeds the limit."""
        if length > self._limit:
            raise RequestError(
                413, f"the body is too large: at most {self._limit} bytes are accepted (SERVING_MAX_BODY_BYTES)."
            )

    async def read(self, receive: Receive) -> bytes:
        """Read a body; it counts as memory in use until `release`.

        Raises:
            RequestError: 408 too slow, 413 too large, 499 the client disconnected, 503 other bodies use all memory.
        """
        task = asyncio.current_task()
        self._reading[task] = self._checks
        if not self._scheduled:
            self._schedule()
        chunks: list[bytes] = []
        size = held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(HUNG_UP, "the client disconnected.")
                chunk = message.get("body", b"")
                size += len(chunk)
                self.check_length(size)
                if len(chunk) > self._free:
                    raise _no_memory()
                self._free -= len(chunk)
                held = size
                chunks.append(chunk)
                if not message.get("more_body", False):
                    held = 0  # the caller releases it
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except asyncio.CancelledError:
            if task is None or self._checks - self._reading[task] <= CHECKS:
                raise  # cancelled by something other than the timer
            task.uncancel()
            raise self._too_slow() from None
        finally:
            self.release(held)
            del self._reading[task]

    def release(self, size: int) -> None:
        """Free the memory of a body of `size` bytes; required for every body that `read` returned."""
        self._free += size

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_later(self._seconds / CHECKS, self._check)

    def _check(self) -> None:
        self._checks += 1
        for task, began in self._reading.items():
            if task is not None and self._checks - began == CHECKS + 1:
                task.cancel()
        self._scheduled = False
        if self._reading:
            self._schedule()

    def _too_slow(self) -> RequestError:
        sentence = f"the body did not arrive within {self._seconds:g} seconds (SERVING_CLIENT_SECONDS)."
        return RequestError(408, sentence, (b"connection", b"close"))


def _no_memory() -> RequestError:
    return RequestError(
        503,
        f"the bodies of other requests already take {LARGEST_AT_ONCE} times SERVING_MAX_BODY_BYTES; "
        "retry in one second.",
        (b"retry-after", b"1"),
    )
