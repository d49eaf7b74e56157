"""The pages and their static files: read once at startup, served with a content policy and an ETag.

Starlette's `StaticFiles` derives the ETag from the modification time, reads the disk in a thread at every request, and
would also serve the page under its file name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import bentoml
from starlette.types import Receive, Scope

from serving.web.answers import Answer

FOLDER = Path(__file__).parent / "static"
# BentoML ships Swagger UI for its own index page, which loads a tracker and is therefore not served.
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
SWAGGER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
TYPES = {".html": b"text/html; charset=utf-8", ".css": b"text/css", ".js": b"text/javascript", ".svg": b"image/svg+xml"}

# A page may load its own files, show images that it draws, and send requests to this service.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI's style sheet contains its icons.
POLICY_OF_DOCS = POLICY.replace(b"img-src 'self'", b"img-src 'self' data:")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Browsers revalidate their copy at every load, so an update never leaves a stale page.
    (b"cache-control", b"no-cache"),
)


class Page:
    """One static file: `index.html` at `/`, `NAME.html` at `/NAME`, every other file at `/static/FILE`."""

    def __init__(self, file: Path) -> None:
        page = "" if file.stem == "index" else file.stem
        self.path = f"/{page}" if file.suffix == ".html" else f"/static/{file.name}"
        self._content = file.read_bytes()
        self._type = TYPES[file.suffix]
        self._tag = b'"%s"' % hashlib.sha256(self._content).hexdigest()[:16].encode()
        policy = POLICY_OF_DOCS if self.path == "/docs" else POLICY
        self._headers = (b"etag", self._tag), (b"content-security-policy", policy), *HEADERS

    async def answer(self, scope: Scope, _receive: Receive) -> Answer:
        """Return the file, or 304 if the client has this version of it."""
        cached = any(name == b"if-none-match" and self._tag in value for name, value in scope["headers"])
        return Answer(b"" if cached else self._content, None, self._type, 304 if cached else 200, self._headers)


def read_pages(folder: Path = FOLDER) -> list[Page]:
    """Read all files of `folder`, and Swagger UI's if BentoML has them; without them, `/docs` links to the document."""
    swagger = [SWAGGER / name for name in SWAGGER_FILES]
    return [Page(file) for file in (*folder.iterdir(), *filter(Path.is_file, swagger))]
