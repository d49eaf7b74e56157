"""Errors that become HTTP responses."""

from __future__ import annotations

# nginx's status for a client that disconnected before its response; no client ever sees it.
HUNG_UP = 499


class RequestError(Exception):
    """A request that gets an error response.

    Args:
        status: HTTP status.
        sentence: what is wrong and what is expected.
        headers: additional response headers.
        reason: label of the metric `digits_rejected_total`, if the status alone does not determine it.
    """

    def __init__(self, status: int, sentence: str, *headers: tuple[bytes, bytes], reason: str | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers
        self.reason = reason


def one_line(error: Exception) -> str:
    """Return the message of `error` as part of a sentence: one line of at most 300 characters, no final full stop."""
    return " ".join(str(error).split()).rstrip(".")[:300]
