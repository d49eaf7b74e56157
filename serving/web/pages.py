"""The pages that the service has itself: files beside the code, sent as they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static"
TYPES = {".html": b"text/html; charset=utf-8", ".css": b"text/css", ".js": b"text/javascript", ".svg": b"image/svg+xml"}
ALLOWED = b"GET, HEAD"

# What a page of ours may do: load its own files, show pictures that it makes itself, and ask this service.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # A browser asks each time whether its copy is still right, which costs a few bytes: no stale page after an update.
    (b"cache-control", b"no-cache"),
)


class Pages:
    """A middleware that answers `/draw`, and the paths below it with the files that the page needs.

    Behind `ShortPath`, which completes the headers and the form of errors. The files are read once, at the start; a
    client can ask for none but those.

    Args:
        app: the rest of the service.
        folder: a page, `NAME.html`, is at `/NAME`, and every other file at `/draw/FILE`.
    """

    def __init__(self, app: ASGIApp, folder: Path = FOLDER) -> None:
        self._app = app
        self._files: dict[str, tuple[bytes, bytes, bytes]] = {}
        for file in folder.iterdir():
            content = file.read_bytes()
            path = f"/{file.stem}" if file.suffix == ".html" else f"/draw/{file.name}"
            tag = b'"%s"' % hashlib.sha256(content).hexdigest()[:16].encode()
            self._files[path] = content, TYPES[file.suffix], tag

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        file = self._files.get(scope["path"]) if scope["type"] == "http" else None
        if file is None:
            await self._app(scope, receive, send)
            return
        content, kind, tag = file
        status, headers = 200, [(b"content-type", kind), (b"etag", tag), *HEADERS]
        if scope["method"] not in ("GET", "HEAD"):
            status, content = 405, b""
            headers = [(b"content-type", b"text/plain"), (b"allow", ALLOWED)]
        elif any(name == b"if-none-match" and tag in value for name, value in scope["headers"]):
            status, content = 304, b""
        if status != 304:
            headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content if scope["method"] != "HEAD" else b""})
