"""Errors that become HTTP responses, and messages without secrets."""

from __future__ import annotations

import os
import re
import textwrap
from urllib.parse import parse_qsl, unquote, urlsplit

# nginx's status for a client that disconnected before its response; no client ever sees it.
HUNG_UP = 499

# Variables whose value is a secret, and those whose value is a URI that may contain one.
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
# The second form is SQLAlchemy's, where a password may contain `/`; digits and `/` after the colon are a port.
USERINFO = re.compile(r"(?<=://)(?:[^\s/?#]*|[^\s/?#:@]*:(?!\d+/)\S*)@")
QUERY = re.compile(r"(?<=://)([^\s?#'\"]*)[?#][^\s'\"]*")
PARAMETER = re.compile(r"([?&][^=&\s]*(?:pass|pwd|token|secret|key|sig|cred)[^=&\s]*=)[^&\s'\"]*", re.IGNORECASE)


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
    """Return the message of `error` as part of a sentence.

    It is one line of at most 500 characters, without a final full stop and without secrets.
    """
    return printable(textwrap.shorten(redact(str(error)), 500, placeholder=" …")).rstrip(".")


def printable(text: str) -> str:
    """Return at most 1,000 characters of `text`, with those that cannot be printed on one line escaped."""
    cut = text if len(text) <= 1000 else f"{text[:998]} …"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def without_secrets(uri: str) -> str:
    """Return `uri` without user name, password, query and fragment."""
    return QUERY.sub(r"\1", USERINFO.sub("", _without_spaces(uri)))


def redact(text: str) -> str:
    """Remove the passwords in the environment, and user names, passwords and queries of URIs, from a library's text."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        # Each character may be percent-encoded.
        pattern = "".join(f"(?:{_percent_encoded(char)}|{re.escape(char)})" for char in secret)
        text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
    return PARAMETER.sub(r"\1***", QUERY.sub(r"\1", USERINFO.sub("", text)))


def _secrets() -> set[str]:
    found = {os.environ.get(name, "") for name in SECRETS}
    for uri in map(_without_spaces, filter(None, map(os.environ.get, URIS))):
        if userinfo := USERINFO.search(uri):
            found.add(userinfo[0][:-1].partition(":")[2])
        found |= {value for name, value in parse_qsl(urlsplit(uri).query) if PARAMETER.match(f"?{name}=")}
    found |= {unquote(secret) for secret in found}
    return (found | {secret.replace(" ", "+") for secret in found}) - {""}


def _without_spaces(uri: str) -> str:
    return re.sub(r"\s", "%20", uri)


def _percent_encoded(char: str) -> str:
    return "".join(f"%{byte:02x}" for byte in char.encode())
