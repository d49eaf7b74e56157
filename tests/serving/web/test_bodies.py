import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving.errors import HUNG_UP, RequestError
from serving.web.bodies import LARGEST_AT_ONCE, Bodies

Receive = Callable[[], Awaitable[dict[str, Any]]]


def messages(*chunks: bytes, end: str = "") -> Receive:
    """An ASGI `receive` that hands over these chunks; `end` is "stall", "leave" or nothing."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        if left:
            chunk = left.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(left) or end != ""}
        if end == "stall":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


def refusal(bodies: Bodies, receive: Receive) -> RequestError:
    scope: dict[str, Any] = {}
    with pytest.raises(RequestError) as refused:
        asyncio.run(bodies.read(scope, receive))
    bodies.release(scope)
    return refused.value


@pytest.mark.parametrize("chunks", [(b"abc",), (b"a", b"", b"bc"), (b"", b"abc", b""), (b"",)])
def test_a_body_is_its_chunks_put_together(chunks: tuple[bytes, ...]) -> None:
    assert asyncio.run(Bodies(3, 60).read({}, messages(*chunks))) == b"".join(chunks)


def test_a_body_that_is_too_large_is_refused_as_soon_as_it_is() -> None:
    bodies = Bodies(3, 60)
    assert refusal(bodies, messages(b"ab", b"cd", end="stall")).status == 413
    bodies.check_length(3)
    with pytest.raises(RequestError, match="at most 3 bytes"):
        bodies.check_length(4)


def test_a_body_that_does_not_arrive_is_refused_and_the_connection_closed() -> None:
    refused = refusal(Bodies(3, 0.05), messages(b"ab", end="stall"))
    assert refused.status == 408
    assert "within 0.05 seconds (SERVING_CLIENT_SECONDS)" in refused.sentence
    assert (b"connection", b"close") in refused.headers


def test_a_client_that_leaves_ends_the_reading() -> None:
    assert refusal(Bodies(3, 60), messages(b"ab", end="leave")).status == HUNG_UP


def test_all_bodies_together_have_a_limit_and_room_comes_back() -> None:
    bodies = Bodies(10, 60)
    scopes: list[dict[str, Any]] = [{} for _ in range(LARGEST_AT_ONCE)]
    for scope in scopes:
        asyncio.run(bodies.read(scope, messages(bytes(4), bytes(6))))
    refused = refusal(bodies, messages(b"a"))
    assert refused.status == 503
    assert (b"retry-after", b"1") in refused.headers
    bodies.release(scopes[0])
    bodies.release(scopes[0])  # as after a request without a body
    for receive in (messages(bytes(5), end="leave"), messages(bytes(11))):
        refusal(bodies, receive)
    assert asyncio.run(bodies.read({}, messages(bytes(10)))) == bytes(10)
    assert refusal(bodies, messages(b"a")).status == 503


def test_a_request_that_somebody_else_cancels_is_cancelled() -> None:
    async def cancelled() -> None:
        reading = asyncio.ensure_future(Bodies(3, 60).read({}, messages(b"ab", end="stall")))
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(cancelled())


def test_only_what_is_late_is_refused() -> None:
    bodies = Bodies(3, 0.2)

    async def statuses() -> list[Any]:
        late = asyncio.ensure_future(bodies.read({}, messages(b"ab", end="stall")))
        while not late.done():
            scope: dict[str, Any] = {}
            assert await bodies.read(scope, messages(b"abc")) == b"abc"
            bodies.release(scope)
            await asyncio.sleep(0.01)
        last = asyncio.ensure_future(bodies.read({}, messages(b"ab", end="stall")))
        with pytest.raises(RequestError):
            await late
        assert not last.done()
        return await asyncio.gather(last, return_exceptions=True)

    (refused,) = asyncio.run(statuses())
    assert refused.status == 408
