"""Names under which the service answers, and other sites whose pages may read its answers.

Without a check of `Host`, a page of another site could read answers: it lets its own name point to 127.0.0.1 (DNS
rebinding), and for the browser both are then one site. Starlette's `TrustedHostMiddleware` takes 4 µs a request.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import RequestError

ANY = "*"
MOST_ACCEPTED = 64  # values of `Host` that are remembered
# The kubelet and Prometheus come by address.
EXEMPT = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})


class Hosts:
    """The allowed values of `Host`, whose port does not matter.

    Args:
        names: host names and addresses in lower case, IPv6 in brackets; `*` allows all.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._any = ANY in names
        self._names = frozenset(name.encode() for name in names)
        self._accepted: set[bytes] = set()  # values as they came, with their ports: most clients send the same one

    def check(self, scope: Scope) -> None:
        """Check the host of a request over HTTP.

        Raises:
            RequestError: 400 more than one `Host`, or none except with HTTP/1.0; 421 a host that is not allowed.
        """
        host, hosts = b"", 0
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
                hosts += 1
        if hosts == 1 and host in self._accepted:
            return
        if scope["path"] in EXEMPT:
            return
        if hosts == 1:
            if not self._any and host_name(host) not in self._names:
                name = host.decode("latin-1")[:80]
                raise RequestError(421, f"the host {name} is not allowed; SERVING_ALLOWED_HOSTS names those that are.")
            if len(self._accepted) < MOST_ACCEPTED:
                self._accepted.add(host)
        elif hosts or scope["http_version"] != "1.0":
            raise RequestError(400, f"the request has {hosts} headers Host, expected one.")


def host_name(host: bytes) -> bytes:
    """Return the value of `Host` in lower case, without the port."""
    if host.startswith(b"["):
        address, bracket, _ = host.partition(b"]")
        return (address + bracket).lower()
    return host.partition(b":")[0].lower()


class Origins(CORSMiddleware):
    """CORS for some other sites; a preflight of any other gets the same answer as without CORS.

    Args:
        app: the next ASGI application.
        origins: scheme, host and port of each site; `*` allows all.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("authorization", "x-model-version", "x-request-id"),
            expose_headers=("retry-after", "x-model-version", "x-request-id"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or add the headers to the answer of the application."""
        preflight = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if preflight and not self.is_allowed_origin(Headers(scope=scope).get("origin", "")):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
