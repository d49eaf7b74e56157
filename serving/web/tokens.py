"""Access by token, and a limit on the rate of requests.

The file of tokens is read again when it changes, so tokens are added and revoked without a restart. Only their hashes
stay in memory. Both checks are off by default, and then take no time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import re
import time
from collections.abc import Iterable
from pathlib import Path

from starlette.types import Scope

from serving.errors import RequestError
from serving.settings import PREFIX, Settings, SettingsError

VARIABLE = f"{PREFIX}TOKEN_FILE"
# The characters of a bearer token (RFC 6750, section 2.1).
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
LEAST_CHARACTERS = 16
# The file is checked for changes at most this often.
CHECK_SECONDS = 1.0
# Clients with a rate of their own; with more, the one that was idle for longest starts over.
MOST_CLIENTS = 10_000

PROBES = ("/livez", "/readyz", "/healthz")

Digest = bytes

logger = logging.getLogger("bentoml.digits")


def read_tokens(file: Path) -> tuple[Digest, ...]:
    """Read a file with one token a line; empty lines and lines that begin with `#` do not count.

    Returns:
        the SHA-256 of each token.

    Raises:
        SettingsError: the file cannot be read, has no token, or has one that is too short or has other characters.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{VARIABLE} is {str(file)!r}, but it cannot be read: {reason}.") from None
    digests = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        # The sentence goes to the log, so it must not repeat the line.
        if len(token) < LEAST_CHARACTERS or not TOKEN.fullmatch(token):
            needed = f"at least {LEAST_CHARACTERS} letters, digits and -._~+/="
            raise SettingsError(f"{VARIABLE} is {str(file)!r}, but line {number} is no token, which has {needed}.")
        digests.append(hashlib.sha256(token.encode()).digest())
    if not digests:
        raise SettingsError(f"{VARIABLE} is {str(file)!r}, but it has no token; expected one a line.")
    return tuple(digests)


class Tokens:
    """The tokens of a file, which may change while the service runs.

    A changed file that is missing or wrong is reported once in the log, and the earlier tokens stay valid.

    Args:
        file: as for `read_tokens`.

    Raises:
        SettingsError: as from `read_tokens`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = _state(file)
        self._digests = read_tokens(file)
        self._next_check = time.monotonic() + CHECK_SECONDS

    def check(self, scope: Scope) -> Digest:
        """Return the hash of the token of a request.

        Raises:
            RequestError: 401 no token, more than one, or an unknown one.
        """
        if time.monotonic() >= self._next_check:
            self._follow()
        found = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = found[0].partition(b" ") if len(found) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            sentence = "this route needs a token, in one header Authorization: Bearer TOKEN."
            raise RequestError(401, sentence, (b"www-authenticate", b'Bearer realm="digits"'))
        digest = hashlib.sha256(token.strip()).digest()
        # All are compared, each in constant time: `sum` does not stop at the first that is equal.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            challenge = b'Bearer realm="digits", error="invalid_token"'
            raise RequestError(401, "the token of the request is not valid.", (b"www-authenticate", challenge))
        return digest

    def _follow(self) -> None:
        self._next_check = time.monotonic() + CHECK_SECONDS
        state = _state(self._file)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._digests = read_tokens(self._file)
        except SettingsError as error:
            logger.warning("Tokens not updated, the earlier ones stay valid: %s", error)
        else:
            logger.info("Tokens updated: %d", len(self._digests))


def _state(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


class Rate:
    """A token bucket for each client: a second's worth of requests at once, then `rate` a second.

    Args:
        rate: requests a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._buckets: dict[bytes, tuple[float, float]] = {}  # requests left, and when; the oldest first

    def take(self, client: bytes, now: float) -> None:
        """Count a request of `client` at `now`, in seconds.

        Raises:
            RequestError: 429 the client has used up its rate.
        """
        left, before = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - before) * self._rate)
        accepted = left >= 1
        self._buckets[client] = left - accepted, now
        if len(self._buckets) > MOST_CLIENTS:
            del self._buckets[next(iter(self._buckets))]
        if not accepted:
            seconds = math.ceil((1 - left) / self._rate)
            sentence = f"more than {self._rate:g} requests a second (SERVING_RATE_LIMIT); retry in {seconds} seconds."
            raise RequestError(429, sentence, (b"retry-after", b"%d" % seconds))


class Access:
    """The checks of a request before anything else is done with it.

    Args:
        settings: the file of tokens and the rate, both optional; without both, the object is false.
        pages: paths of the static files, which are open to all, as probes and the API's document are.
    """

    def __init__(self, settings: Settings, pages: Iterable[str]) -> None:
        self._tokens = Tokens(settings.token_file) if settings.token_file else None
        self._rate = Rate(settings.rate_limit) if settings.rate_limit else None
        self._opened = {*pages, *opened(settings)}

    def __bool__(self) -> bool:
        return self._tokens is not None or self._rate is not None

    def check(self, scope: Scope) -> None:
        """Check the token and the rate of a request over HTTP.

        Raises:
            RequestError: 401 and 429.
        """
        if scope["path"] in self._opened:
            return
        client = self._tokens.check(scope) if self._tokens else _network(scope)
        if self._rate:
            self._rate.take(client, time.monotonic())


def opened(settings: Settings) -> set[str]:
    """Return the paths without static files that need no token."""
    return {*PROBES, "/docs.json"} | (set() if settings.protect_metrics else {"/metrics"})


def _network(scope: Scope) -> bytes:
    """Return the client's address; of IPv6 the first half, as one client has all of the second."""
    text = (scope.get("client") or ("::",))[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:  # from a proxy's X-Forwarded-For
        return hashlib.sha256(text.encode()).digest()
    return address.packed if address.version == 4 else address.packed[:8]
