"""The short path: an ASGI middleware that answers the prediction routes before BentoML's router is reached.

A body becomes uint8 images, the images wait in the one queue, the answer goes back. Everything else goes on to
BentoML, whose answers get the same header and, for errors, the same form.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import bentoml
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import __version__
from serving.contract import Images, Probabilities
from serving.decoding import arrays as images
from serving.decoding.pictures import from_form
from serving.errors import HUNG_UP, RequestError
from serving.inference.batching import Batcher, NoModelError, OverloadedError
from serving.inference.explain import QUEUE, Explainer
from serving.model.store import Store
from serving.monitoring.metrics import NO_MODEL, REASONS, Metrics
from serving.settings import Settings
from serving.web import connections, openapi
from serving.web.bodies import Bodies
from serving.web.traffic import REQUEST_ID

# Larger bodies are decoded in a thread, so that /livez need not wait for them; 100 images as JSON take 2.5 ms.
INLINE_BYTES = 256 * 1024
RETRY_OVERLOADED = (b"retry-after", b"1")
RETRY_NO_MODEL = (b"retry-after", b"5")

ROUTES = (
    "POST /predict, /predict/raw, /predict/files, /explain; GET /draw, /model, /metrics, /docs.json, /livez, /readyz"
)

GET, POST = ("GET", "HEAD"), ("POST",)
JSON = b"application/json"
BYTES = b"application/octet-stream"
FORM = b"multipart/form-data"
PROMETHEUS = b"text/plain; version=1.0.0; charset=utf-8"

Header = tuple[bytes, bytes]
# The methods that are allowed, what answers with a body and the model's version, and the body's type.
Route = tuple[tuple[str, ...], Callable[[Scope, Receive], Awaitable[tuple[bytes, str]]], bytes]

logger = logging.getLogger("bentoml.digits")


def encode(probabilities: Probabilities) -> bytes:
    """Turn float32 `[n, 10]` into the JSON list of `{"digit", "confidence", "probabilities"}`, in order."""
    answers = [
        {"digit": digit, "confidence": row[digit], "probabilities": row}
        for digit, row in zip(probabilities.argmax(1).tolist(), probabilities, strict=True)
    ]
    # orjson writes a float32 with the digits that it has, not with those of the nearest double.
    return orjson.dumps(answers, option=orjson.OPT_SERIALIZE_NUMPY)


class ShortPath:
    """The middleware, for `Service.add_asgi_middleware`.

    Args:
        app: the rest of BentoML.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._bodies = Bodies(settings.max_body_bytes, settings.client_seconds)
        self._document = openapi.read(settings)
        self._decoding = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decoding")
        self._routes: dict[str, Route] = {
            "/predict": (POST, self._predict, JSON),
            "/predict/raw": (POST, self._predict_raw, JSON),
            "/predict/files": (POST, self._predict_files, JSON),
            "/explain": (POST, self._explain, JSON),
            "/model": (GET, self._model, JSON),
            "/metrics": (GET, self._render_metrics, PROMETHEUS),
            "/docs.json": (GET, self._docs, JSON),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self._routes.get(scope["path"])
        if route is None:
            await self._app(scope, receive, self._in_our_form(scope, send))
            return
        allowed, answer, content_type = route
        headers: tuple[Header, ...] = ()
        try:
            if scope["method"] not in allowed:
                raise RequestError(405, _not_allowed(scope), (b"allow", ", ".join(allowed).encode()))
            status = 200
            body, version = await answer(scope, receive)
        except RequestError as refusal:
            status, body, headers = refusal.status, _error(refusal.sentence), refusal.headers
            version, content_type = self._version(), JSON
            self._metrics.rejected[refusal.reason or REASONS[status]].inc()
        except Exception:
            logger.exception("%s %s failed, request %s", scope["method"], scope["path"], scope[REQUEST_ID])
            status, body, content_type = 500, _error("the service failed; its log says why."), JSON
            version = self._version()
        finally:
            self._bodies.release(scope)
        await _send(send, status, content_type, body, (_mark(version), *headers))

    async def _predict(self, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        body, _ = await self._body(scope, receive, JSON)
        return await self._answer(scope, len(body), partial(images.from_json, body, self._settings.max_images))

    async def _predict_raw(self, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        body, _ = await self._body(scope, receive, BYTES)
        return await self._answer(scope, len(body), partial(images.from_raw, body, self._settings.max_images))

    async def _predict_files(self, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        body, content_type = await self._body(scope, receive, FORM)
        limits = self._settings.max_images, self._settings.max_picture_pixels
        # Always in a thread: a small file may hold a large picture.
        return await self._answer(scope, INLINE_BYTES + 1, partial(from_form, body, content_type, *limits))

    async def _explain(self, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        body, content_type = await self._body(scope, receive, JSON, FORM)
        limits = self._settings.max_images, self._settings.max_picture_pixels
        if _media_type(content_type) == JSON:
            decode = partial(images.from_json, body, self._settings.max_images)
        else:
            decode = partial(from_form, body, content_type, *limits)
        try:
            return await self._explainer.submit(partial(_decode_if_wanted, scope, decode))
        except OverloadedError:
            sentence = f"{QUEUE} explanations wait already; ask again in a second."
            raise RequestError(503, sentence, RETRY_OVERLOADED) from None
        except NoModelError:
            raise self._no_model() from None

    async def _model(self, _scope: Scope, _receive: Receive) -> tuple[bytes, str]:
        described = {**self._store.describe(), "service_version": __version__}
        return orjson.dumps(described, option=orjson.OPT_INDENT_2), self._version()

    async def _docs(self, _scope: Scope, _receive: Receive) -> tuple[bytes, str]:
        return self._document, self._version()

    async def _render_metrics(self, _scope: Scope, _receive: Receive) -> tuple[bytes, str]:
        self._metrics.write()
        return await asyncio.to_thread(self._metrics.render), self._version()

    async def _answer(self, scope: Scope, size: int, decode: Callable[[], Images]) -> tuple[bytes, str]:
        if size <= INLINE_BYTES:
            decoded = decode()
        else:
            wanted = partial(_decode_if_wanted, scope, decode)
            decoded = await asyncio.get_running_loop().run_in_executor(self._decoding, wanted)
        _check_wanted(scope)
        try:
            scope[connections.AWAITED] = self._batcher.submit(decoded)
            answer = await scope[connections.AWAITED]
        except OverloadedError:
            raise self._overloaded() from None
        except NoModelError:
            raise self._no_model() from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # somebody else gives the request up
            raise _hung_up() from None
        finally:
            # A future's exception leads to this frame, and so to the body: nothing here may lead back to the future.
            scope.pop(connections.AWAITED, None)
        return encode(answer.probabilities), answer.version

    async def _body(self, scope: Scope, receive: Receive, *expected: bytes) -> tuple[bytes, bytes]:
        """Check the headers, then read the body; returns it and its content type, the first one expected if missing."""
        content_type, length = expected[0], 0
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                length = int(value)
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise RequestError(415, f"a body in {_text(value)} is not taken; expected it as it is, unpacked.")
        if _media_type(content_type) not in expected:
            taken = " or ".join(map(_text, expected))
            raise RequestError(415, f"{scope['path']} takes {taken}, but the content type is {_text(content_type)}.")
        self._bodies.check_length(length)
        if self._store.current is None:
            raise self._no_model()
        if self._batcher.waiting >= self._settings.queue_images:
            raise self._overloaded()
        return await self._bodies.read(scope, receive), content_type

    def _in_our_form(self, scope: Scope, send: Send) -> Send:
        """Wrap `send`: the same header on BentoML's answers, and its plain-text errors as JSON."""
        replaced = False

        async def wrapped(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                mark = _mark(self._version())
                if message["status"] >= 400 and headers.get(b"content-type", b"").startswith(b"text/plain"):
                    replaced = True
                    kept = [(name, value) for name, value in headers.items() if not name.startswith(b"content-")]
                    if message["status"] == 503:
                        kept.append(RETRY_NO_MODEL)
                    await _send(send, message["status"], JSON, self._sentence(scope, message["status"]), (*kept, mark))
                    return
                message = {**message, "headers": [*message["headers"], mark]}
            if not replaced:
                await send(message)

        return wrapped

    def _sentence(self, scope: Scope, status: int) -> bytes:
        if status == 404:
            return _error(f"there is nothing at {scope['path']}; there are {ROUTES}.")
        if status == 405:
            return _error(_not_allowed(scope))
        if status == 503 and scope["path"] == "/readyz":
            return _error(f"no model is in service: {self._store.problem}")
        return _error("the service failed; its log says why.")

    def _overloaded(self) -> RequestError:
        limit = self._settings.queue_images
        return RequestError(
            503, f"{limit} images wait already (SERVING_QUEUE_IMAGES); ask again in a second.", RETRY_OVERLOADED
        )

    def _no_model(self) -> RequestError:
        return RequestError(503, f"no model is in service: {self._store.problem}", RETRY_NO_MODEL, reason=NO_MODEL)

    def _version(self) -> str:
        return served.version if (served := self._store.current) else "none"

    @cached_property
    def _store(self) -> Store:
        store: Store = bentoml.get_current_service().store
        return store

    @cached_property
    def _batcher(self) -> Batcher:
        batcher: Batcher = bentoml.get_current_service().batcher
        return batcher

    @cached_property
    def _explainer(self) -> Explainer:
        explainer: Explainer = bentoml.get_current_service().explainer
        return explainer

    @cached_property
    def _metrics(self) -> Metrics:
        metrics: Metrics = bentoml.get_current_service().metrics
        return metrics


def _check_wanted(scope: Scope) -> None:
    """Raise `RequestError` when the client of a request hung up."""
    if connections.GONE in scope:
        raise _hung_up()


def _decode_if_wanted(scope: Scope, decode: Callable[[], Images]) -> Images:
    """Decode, in a thread and in its turn, unless the client hung up; until then the body counts as held."""
    _check_wanted(scope)
    return decode()


def _hung_up() -> RequestError:
    return RequestError(HUNG_UP, "the client hung up.")


async def _send(send: Send, status: int, content_type: bytes, body: bytes, headers: tuple[Header, ...]) -> None:
    fixed = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


def _mark(version: str) -> Header:
    return b"x-model-version", version.encode()


def _error(sentence: str) -> bytes:
    return orjson.dumps({"error": sentence})


def _not_allowed(scope: Scope) -> str:
    return f"{scope['method']} is not possible at {scope['path']}; the header Allow says what is."


def _media_type(content_type: bytes) -> bytes:
    return content_type.split(b";")[0].strip().lower()


def _text(value: bytes) -> str:
    return value.decode("latin-1")[:80]
