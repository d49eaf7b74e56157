"""A proxy that causes faults in front of a real MLflow server, which stays whole."""

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PASS, HANG, REFUSE, CUT, SLOW = "pass", "hang", "refuse", "cut", "slow"
DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "server", "date"}


class Proxy:
    """Forwards requests to `upstream`.

    Attributes:
        mode: PASS; HANG, no answer while the mode lasts; REFUSE, a reset connection; CUT, the request is carried out
            and the connection reset; SLOW, an answer a second later; or a status, such as 503.
        only: requests whose path contains this text are affected; all by default.
        times: the number of requests to affect; all by default.
        seen: the number of requests by method and path, without those of artifacts.
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        self._upstream = str(address.hostname), int(address.port or 80)
        self.mode: str | int = PASS
        self.only, self.times = "", 10**9
        self.seen: Counter[str] = Counter()
        self.affected = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def set(self, mode: str | int, only: str = "", times: int = 10**9) -> None:
        with self._lock:
            self.mode, self.only, self.times, self.affected = mode, only, times, 0

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.seen[f"{handler.command} {urlsplit(handler.path).path}"] += 1
            affects = self.only in handler.path and self.affected < self.times
            mode = self.mode if affects else PASS
            self.affected += affects
        if isinstance(mode, int):
            _answer(handler, mode, [], b"{}")
            return
        if mode == HANG:
            while self.mode == HANG:
                time.sleep(0.05)
        if mode in (HANG, REFUSE):
            _reset(handler)
            return
        if mode == SLOW:
            time.sleep(1)
        try:
            status, headers, content = self._forward(handler, body)
        except (OSError, HTTPException):
            _reset(handler)
            return
        if mode == CUT:
            _reset(handler)
        else:
            _answer(handler, status, headers, content)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(*self._upstream, timeout=60)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() not in DROPPED}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    handler.send_response(status)
    for name, value in headers:
        if name.lower() not in DROPPED:
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def proxy_of(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.set(PASS)
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
