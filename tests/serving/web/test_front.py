import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.web.front import InFront


class Named:
    """A middleware that leaves its name on each request."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("passed", []).append(self._name)
        await self._app(scope, receive, send)


@pytest.fixture
def application() -> Starlette:
    async def passed(request: Any) -> PlainTextResponse:
        return PlainTextResponse(" ".join(request.scope["passed"]))

    return Starlette(
        routes=[Route("/", passed)],
        middleware=[
            Middleware(Named, name="theirs"),
            Middleware(InFront, wrap=lambda app: Named(app, "ours")),
            Middleware(Named, name="last"),
        ],
    )


async def start_and_stop(application: Starlette) -> None:
    """As a server does."""
    events: Iterable[Message] = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(iter(events))

    async def send(message: Message) -> None:
        assert message["type"].endswith(".complete")

    await application({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


async def ask(application: Starlette) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://digits") as client:
        return (await client.get("/")).text


def test_ours_comes_first_and_once(application: Starlette) -> None:
    asyncio.run(start_and_stop(application))
    assert asyncio.run(ask(application)) == "ours theirs last"


def test_an_application_that_is_not_told_of_its_start_has_it_where_it_stands(application: Starlette) -> None:
    assert asyncio.run(ask(application)) == "theirs ours last"
