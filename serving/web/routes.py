"""The service's own routes: a body becomes uint8 images, they wait in the queue, probabilities go back as JSON.

All other requests pass through to BentoML; its responses get the same header and, for errors, the same JSON.

A dictionary of paths and plain ASGI messages take 1.5 µs a request. Starlette's `Router`, `Request` and `Response` take
10 to 14 µs, which is more than a tenth of the time of a whole request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import __version__
from serving.contract import MNIST, Form, Images
from serving.decoding.arrays import expected, from_json, from_raw
from serving.decoding.forms import files_of_form
from serving.decoding.lanes import Lanes
from serving.decoding.pictures import Pictures, read_pictures
from serving.errors import RequestError
from serving.inference.batching import Batcher, NoModelError, OverloadedError, ShapeError
from serving.inference.explain import QUEUE, Explainer
from serving.model.store import Store
from serving.monitoring.metrics import NO_MODEL, REASONS, Metrics
from serving.settings import Settings, listed
from serving.web import openapi
from serving.web.answers import FAILED, JSON, Answer, Header, encode, error, version_in_service
from serving.web.bodies import Bodies
from serving.web.connections import check_connected, result_while_connected
from serving.web.hosts import Hosts
from serving.web.pages import read_pages
from serving.web.tokens import Access

# Larger bodies are read in a thread, so that /livez does not wait for them; 100 images as JSON take 2.5 ms, and a form
# of many small files 0.13 ms for each kibibyte.
INLINE_BYTES = 256 * 1024
INLINE_FORM_BYTES = 16 * 1024
RETRY_OVERLOADED = (b"retry-after", b"1")
RETRY_NO_MODEL = (b"retry-after", b"5")

ROUTES = (
    "POST /predict, /predict/raw, /predict/files, /explain; "
    "GET /, /draw, /docs, /model, /metrics, /docs.json, /livez, /readyz"
)

GET, POST = ("GET", "HEAD"), ("POST",)
BYTES = b"application/octet-stream"
FORM = b"multipart/form-data"
PROMETHEUS = b"text/plain; version=1.0.0; charset=utf-8"

Handler = Callable[[Scope, Receive], Awaitable[Answer]]
Result = TypeVar("Result")
# Computes the answer to images.
Reader = Callable[[Scope, Images], Awaitable[Answer]]


class Parts(Protocol):
    """The parts of the service that the routes use; `serving.service.Digits` has them."""

    store: Store
    batcher: Batcher
    explainer: Explainer
    metrics: Metrics


class ShortPath:
    """An ASGI middleware that answers the service's own routes.

    Args:
        app: the rest of BentoML.
        settings: the limits.
        parts: the service.
    """

    def __init__(self, app: ASGIApp, settings: Settings, parts: Parts) -> None:
        self._app = app
        self._settings = settings
        self._store, self._metrics = parts.store, parts.metrics
        self._batcher, self._explainer = parts.batcher, parts.explainer
        self._bodies = Bodies(settings.max_body_bytes, settings.client_seconds)
        self._lanes = Lanes()
        self._document = MNIST, openapi.read(settings, MNIST)
        pages = read_pages()
        access = Access(settings, (page.path for page in pages))
        self._checks = [Hosts(listed(settings.allowed_hosts)).check, *([access.check] if access else [])]
        self._routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            "/predict": (POST, partial(self._read, self._predict, (JSON,))),
            "/predict/raw": (POST, partial(self._read, self._predict, (BYTES,))),
            "/predict/files": (POST, partial(self._read, self._predict, (FORM,))),
            "/explain": (POST, partial(self._read, self._explain, (JSON, FORM))),
            "/model": (GET, self._model),
            "/metrics": (GET, self._render_metrics),
            "/docs.json": (GET, self._docs),
            **{page.path: (GET, page.answer) for page in pages},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self._routes.get(scope["path"])
        try:
            for check in self._checks:
                check(scope)
            if route is None:
                await self._app(scope, receive, self._uniform(scope, send))
                return
            allowed, handler = route
            if scope["method"] not in allowed:
                raise RequestError(405, _not_allowed(scope), (b"allow", ", ".join(allowed).encode()))
            answer = await handler(scope, receive)
        except RequestError as refused:
            answer = error(refused.status, refused.sentence, *refused.headers)
            self._metrics.rejected[refused.reason or REASONS[refused.status]].inc()
        await answer.send(send, version_in_service(self._store))

    async def _read(self, reader: Reader, accepted: tuple[bytes, ...], scope: Scope, receive: Receive) -> Answer:
        """Check the headers, read the body and compute the answer; the first type is assumed if none is sent."""
        media_type, content_type, length, pinned = _read_head(scope, accepted)
        self._bodies.check_length(length)
        if self._store.current is None:
            raise self._no_model()
        if pinned:  # before the body is read
            _check_version(pinned, version_in_service(self._store))
        if self._batcher.waiting >= self._settings.queue_images:
            raise self._overloaded()
        body = await self._bodies.read(receive)
        try:
            if len(body) <= (INLINE_FORM_BYTES if media_type == FORM else INLINE_BYTES):
                found = self._images_or_pictures(media_type, body, content_type)
            else:
                read = partial(self._images_or_pictures, media_type, body, content_type)
                found = await self._lanes.read(len(body), partial(_if_connected, scope, read))
            if isinstance(found, Pictures):
                answer = await self._read_pictures(reader, scope, found)
            else:
                answer = await reader(scope, found)
            _check_version(pinned, answer.version)  # it may have been replaced meanwhile
            return answer
        except ShapeError as other:
            raise _other_shape(other) from None
        except OverloadedError:
            raise self._overloaded() from None
        except NoModelError:
            raise self._no_model() from None
        finally:
            self._bodies.release(len(body))

    async def _read_pictures(self, reader: Reader, scope: Scope, pictures: Pictures) -> Answer:
        """Decode pictures in a thread, because a small file may hold a large picture, and compute the answer."""
        while True:
            decode = partial(_if_connected, scope, lambda: pictures.decode(self._form()))
            try:
                return await reader(scope, await self._lanes.decode(pictures.seconds, decode))
            except ShapeError:
                pass  # swapped meanwhile: pictures fit any model, once they are decoded for it

    async def _predict(self, scope: Scope, images: Images) -> Answer:
        check_connected(scope)
        predicted = await result_while_connected(scope, self._batcher.submit(images))
        return Answer(encode(predicted.probabilities, predicted.form), predicted.version)

    async def _explain(self, scope: Scope, images: Images) -> Answer:
        try:
            return Answer(*await self._explainer.submit(partial(_if_connected, scope, lambda: images)))
        except OverloadedError:
            sentence = f"{QUEUE} explanations are already waiting; retry in one second."
            raise RequestError(503, sentence, RETRY_OVERLOADED) from None

    async def _model(self, _scope: Scope, _receive: Receive) -> Answer:
        described = {**self._store.describe(), "service_version": __version__}
        return Answer(orjson.dumps(described, option=orjson.OPT_INDENT_2))

    async def _docs(self, _scope: Scope, _receive: Receive) -> Answer:
        described, document = self._document
        form = served.model.form if (served := self._store.current) else MNIST
        if form is not described:
            document = openapi.read(self._settings, form)
            self._document = form, document
        return Answer(document)

    async def _render_metrics(self, _scope: Scope, _receive: Receive) -> Answer:
        self._metrics.write()
        return Answer(await asyncio.to_thread(self._metrics.render), content_type=PROMETHEUS)

    def _images_or_pictures(self, media_type: bytes, body: bytes, content_type: bytes) -> Images | Pictures:
        most = self._settings.max_images
        if media_type == JSON:
            return from_json(body, most, self._form())
        if media_type == BYTES:
            return from_raw(body, most, self._form())
        # Starlette's form parser drops truncated files silently and reports too many files as a malformed form.
        return read_pictures(files_of_form(body, content_type, most), self._settings.max_picture_pixels)

    def _form(self) -> Form:
        """Return the form of the model in service at the moment."""
        if (served := self._store.current) is None:
            raise self._no_model()
        return served.model.form

    def _uniform(self, scope: Scope, send: Send) -> Send:
        """Wrap `send`: BentoML's responses get the version header, its plain-text errors become JSON."""
        replaced = False

        async def wrapped(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                version = version_in_service(self._store)
                if message["status"] >= 400 and headers.get(b"content-type", b"").startswith(b"text/plain"):
                    replaced = True
                    kept = [(name, value) for name, value in headers.items() if not name.startswith(b"content-")]
                    if message["status"] == 503:
                        kept.append(RETRY_NO_MODEL)
                    sentence = self._sentence(scope, message["status"])
                    await error(message["status"], sentence, *kept).send(send, version)
                    return
                mark: Header = (b"x-model-version", version.encode())
                message = {**message, "headers": [*message["headers"], mark]}
            if not replaced:
                await send(message)

        return wrapped

    def _sentence(self, scope: Scope, status: int) -> str:
        if status == 404:
            return f"{scope['path']} is not a route; the routes are {ROUTES}."
        if status == 405:
            return _not_allowed(scope)
        if status == 503 and scope["path"] == "/readyz":
            return f"no model is in service: {self._store.problem}"
        return FAILED

    def _overloaded(self) -> RequestError:
        limit = self._settings.queue_images
        sentence = f"the queue of {limit} images has no room (SERVING_QUEUE_IMAGES); retry in one second."
        return RequestError(503, sentence, RETRY_OVERLOADED)

    def _no_model(self) -> RequestError:
        return RequestError(503, f"no model is in service: {self._store.problem}", RETRY_NO_MODEL, reason=NO_MODEL)


def _read_head(scope: Scope, accepted: tuple[bytes, ...]) -> tuple[bytes, bytes, int, bytes]:
    """Return the media type, the whole content type, the length of the body (0: unknown) and the version wanted."""
    content_type, length, pinned = accepted[0], 0, b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = int(value)
        elif name == b"x-model-version":
            pinned = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            sentence = f"Content-Encoding {_text(value)} is not supported; send the body uncompressed."
            raise RequestError(415, sentence)
    media_type = content_type.split(b";")[0].strip().lower()
    if media_type not in accepted:
        types = " or ".join(map(_text, accepted))
        sentence = f"{scope['path']} accepts {types}, but the content type is {_text(content_type)}."
        raise RequestError(415, sentence)
    return media_type, content_type, length, pinned


def _check_version(pinned: bytes, version: str | None) -> None:
    """Refuse to answer with another version of the model than the client wants, if it wants one."""
    if pinned and version is not None and pinned != version.encode():
        raise RequestError(
            409,
            f"version {version} of the model answers here, and X-Model-Version wants {_text(pinned)}; retry for a "
            "replica that has it, or leave the header out.",
        )


def _if_connected(scope: Scope, work: Callable[[], Result]) -> Result:
    """Work in a thread, unless the client disconnected while the request waited for the thread."""
    check_connected(scope)
    return work()


def _other_shape(error: ShapeError) -> RequestError:
    return RequestError(
        422,
        f"the model was replaced while the request waited, and images of shape {list(error.found)} do not fit the new "
        f"one, which takes {list(error.form.shape)}; {expected(error.form)}.",
    )


def _not_allowed(scope: Scope) -> str:
    return f"method {scope['method']} is not allowed at {scope['path']}; the header Allow lists the methods that are."


def _text(value: bytes) -> str:
    return value.decode("latin-1")[:80]
