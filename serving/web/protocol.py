"""uvicorn's HTTP protocol with bounded heads, ignored upgrades, and errors as JSON.

Neither llhttp nor uvicorn limits a head, a trailer or a chunk extension. httptools also skips the body of a request
that asks for another protocol, as curl's `--http2` and Java's HttpClient do. The subclass counts the bytes of packets,
not of headers: that takes 1 of the 150 µs of a request.
"""

from __future__ import annotations

from http import HTTPStatus

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
# A chunk's length and line ends; extensions beyond this count as part of the head.
CHUNK_LINES = 16
# After an error, this much is read and dropped: closing earlier could reset the connection before its client reads.
DROPPED_BYTES = 2**20

TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the head of the request is too large: at most {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers are accepted.",
)
MALFORMED = HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1."
NO_PROXY = HTTPStatus.BAD_REQUEST, "the method CONNECT is for proxies, and this service is none."


class RefusedHeadError(Exception):
    """A head or trailers that end the connection; the arguments are the status and the sentence of the answer."""


class StrictProtocol(HttpToolsProtocol):
    """uvicorn's protocol for hostile clients.

    A head, trailers and chunk extensions of one request may together take `MAX_HEAD_BYTES` and `MAX_HEADERS`.
    Trailers are dropped: their names may not pass for headers (RFC 9110, section 6.5.1). No request changes the
    protocol: `Upgrade` is ignored (section 7.8).
    """

    # Bytes outside bodies in the packets after the one in which the last request ended.
    _outside = 0
    # Bytes of that packet, an unknown part of which belongs to the current request, and of the current packet.
    _shared = _packet = 0
    _refused = False

    def data_received(self, data: bytes) -> None:
        """Parse a packet; uvicorn's method would drop the body of a request with `Upgrade`."""
        self._unset_keepalive_if_required()
        self._packet = size = len(data)
        self._outside += size
        if self._refused:
            if self._outside > DROPPED_BYTES:
                self.transport.abort()
            return
        rest = None
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(data)[upgrade.args[0] :]
            if rest is not None:
                self._ignore_upgrade(rest)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(*(cause.args if isinstance(cause, RefusedHeadError) else MALFORMED))
        if not 0 <= self._outside <= MAX_HEAD_BYTES:
            if self._outside > 0 and not self._refused:
                self._refuse(*TOO_LARGE)
            self._outside = 0

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large or is parsed again without its `Upgrade`."""
        if len(self.headers) > MAX_HEADERS or (
            self._outside + self._shared > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES
        ):
            raise RefusedHeadError(*TOO_LARGE)
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = []  # for the trailers
        elif self.parser.get_method() == b"CONNECT":
            raise RefusedHeadError(*NO_PROXY)

    def on_body(self, body: bytes) -> None:
        """Add a part of a body, which does not count as head."""
        self._outside -= len(body) + CHUNK_LINES
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            if len(self.headers) > MAX_HEADERS:
                raise RefusedHeadError(*TOO_LARGE)
            super().on_message_complete()
            self._outside, self._shared = 0, self._packet

    def on_refusal(self, status: int) -> None:
        """Note that this connection is refused; subclasses may count it."""

    def _should_upgrade(self) -> bool:
        return False

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Parse the last head again without its `Upgrade`, and then the rest of the packet."""
        while True:
            version = self.parser.get_http_version().encode()
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
            # The old parser is at the end of a request, and with `Connection: close` at the end of all requests.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            for name, value in self.headers:
                if name != b"upgrade":
                    head += name, b": ", value, b"\r\n"
            self.parser.feed_data(b"".join([*head, b"\r\n"]))
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer the current request with an error, after the answers to earlier ones, and close the connection."""
        self._refused = True
        self._outside = 0
        self.on_refusal(status)
        cycle = self.cycle
        if self.scope is None or self.headers is self.scope["headers"]:  # a head
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False  # closes after the answers to the earlier requests
                return
        elif cycle.response_started or self.pipeline:
            self.transport.close()
            return
        else:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
        body = orjson.dumps({"error": sentence})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS
            self.transport.close()
