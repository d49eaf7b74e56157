"""Errors that a client gets as an answer."""

from __future__ import annotations

# nginx's status for a client that disconnected before its answer; no client ever sees it.
HUNG_UP = 499


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        sentence: what was wrong and what is expected.
        headers: further headers of the answer.
        reason: the label under which it is counted, if the status alone does not determine it.
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
