import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving.errors import HUNG_UP, RequestError
from serving.web.bodies import LARGEST_AT_ONCE, Bodies

Receive = Callable[[], Awaitable[dict[str, Any]]]


def messages(*chunks: bytes, end: str = "") -> Receive:
    """An ASGI `receive` that returns these chunks; `end` is "stall", "disconnect" or nothing."""
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
    with pytest.raises(RequestError) as refused:
        asyncio.run(bodies.read(receive))
    return refused.value


@pytest.mark.parametrize("chunks", [(b"abc",), (b"a", b"", b"bc"), (b"", b"abc", b""), (b"",)])
def test_body_joins_its_chunks(chunks: tuple[bytes, ...]) -> None:
    assert asyncio.run(Bodies(3, 60).read(messages(*chunks))) == b"".join(chunks)


def test_large_body_is_refused_at_the_first_byte_too_many() -> None:
    bodies = Bodies(3, 60)
    assert refusal(bodies, messages(b"ab", b"cd", end="stall")).status == 413
    bodies.check_length(3)
    with pytest.raises(RequestError, match="at most 3 bytes"):
        bodies.check_length(4)


def test_slow_body_is_refused_and_connection_closed() -> None:
    refused = refusal(Bodies(3, 0.05), messages(b"ab", end="stall"))
    assert refused.status == 408
    assert "within 0.05 seconds (SERVING_CLIENT_SECONDS)" in refused.sentence
    assert (b"connection", b"close") in refused.headers


def test_disconnect_ends_reading() -> None:
    assert refusal(Bodies(3, 60), messages(b"ab", end="disconnect")).status == HUNG_UP


def test_all_bodies_share_a_limit_until_they_are_released() -> None:
    bodies = Bodies(10, 60)
    for _ in range(LARGEST_AT_ONCE):
        assert asyncio.run(bodies.read(messages(bytes(4), bytes(6)))) == bytes(10)
    refused = refusal(bodies, messages(b"a"))
    assert refused.status == 503
    assert (b"retry-after", b"1") in refused.headers
    bodies.release(10)
    bodies.release(0)  # an empty body
    for receive in (messages(bytes(5), end="disconnect"), messages(bytes(11))):
        refusal(bodies, receive)
    assert asyncio.run(bodies.read(messages(bytes(10)))) == bytes(10)
    assert refusal(bodies, messages(b"a")).status == 503


def test_cancellation_by_others_is_passed_on() -> None:
    async def cancelled() -> None:
        reading = asyncio.ensure_future(Bodies(3, 60).read(messages(b"ab", end="stall")))
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(cancelled())


def test_timer_refuses_late_bodies_only() -> None:
    bodies = Bodies(3, 0.2)

    async def statuses() -> list[Any]:
        late = asyncio.ensure_future(bodies.read(messages(b"ab", end="stall")))
        while not late.done():
            assert await bodies.read(messages(b"abc")) == b"abc"
            bodies.release(3)
            await asyncio.sleep(0.01)
        last = asyncio.ensure_future(bodies.read(messages(b"ab", end="stall")))
        with pytest.raises(RequestError):
            await late
        assert not last.done()
        return list(await asyncio.gather(last, return_exceptions=True))

    (refused,) = asyncio.run(statuses())
    assert refused.status == 408
