"""Static files of the drawing page: read once at startup, served with a content policy and an ETag.

Starlette's `StaticFiles` derives the ETag from the modification time, reads the disk in a thread at every request, and
would also serve the page under its file name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.types import Receive, Scope

from serving.web.answers import Answer

FOLDER = Path(__file__).parent / "static"
TYPES = {".html": b"text/html; charset=utf-8", ".css": b"text/css", ".js": b"text/javascript", ".svg": b"image/svg+xml"}

# The page may load its own files, show images that it draws, and send requests to this service.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Browsers revalidate their copy at every load, so an update never leaves a stale page.
    (b"cache-control", b"no-cache"),
)


class Page:
    """One static file: `NAME.html` at `/NAME`, every other file at `/draw/FILE`."""

    def __init__(self, file: Path) -> None:
        self.path = f"/{file.stem}" if file.suffix == ".html" else f"/draw/{file.name}"
        self._content = file.read_bytes()
        self._type = TYPES[file.suffix]
        self._tag = b'"%s"' % hashlib.sha256(self._content).hexdigest()[:16].encode()

    async def answer(self, scope: Scope, _receive: Receive) -> Answer:
        """Return the file, or 304 if the client has this version of it."""
        cached = any(name == b"if-none-match" and self._tag in value for name, value in scope["headers"])
        headers = (b"etag", self._tag), *HEADERS
        return Answer(b"" if cached else self._content, None, self._type, 304 if cached else 200, headers)


def read_pages(folder: Path = FOLDER) -> list[Page]:
    """Read all files of `folder`."""
    return [Page(file) for file in folder.iterdir()]
