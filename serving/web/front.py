"""The way in: what every request passes, before BentoML's own middlewares are reached.

BentoML puts a service's middlewares behind its own, which start a second task and a timer of 60 seconds for each
request, and check its URL. docs/performance-serving.md has what that costs.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class InFront:
    """A middleware for `Service.add_asgi_middleware` that has another put before all middlewares of the application.

    It happens when the application starts, and only in applications that are told so (ASGI's lifespan); in others the
    other one stands where BentoML puts it.

    Args:
        app: the rest of the service.
        wrap: makes the other middleware around an application.
    """

    def __init__(self, app: ASGIApp, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
        self._app = app
        self._wrap = wrap
        self._here = wrap(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on what comes; a lifespan after it has put the other one in its place."""
        if scope["type"] == "lifespan":
            application = scope["app"]  # Starlette's, whose middlewares are one in the other
            application.middleware_stack = self._wrap(application.middleware_stack)
            self._here = self._app
        await self._here(scope, receive, send)
