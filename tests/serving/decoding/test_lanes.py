import asyncio
import threading
from collections.abc import Awaitable

import numpy as np
import pytest

from serving.decoding.lanes import SMALL_SECONDS, WAITING_SECONDS, Lanes
from serving.errors import RequestError

PATIENCE_SECONDS = 60


def test_work_beyond_a_second_is_refused_and_small_pictures_pass() -> None:
    free = threading.Event()
    lanes = Lanes()

    def slow() -> np.ndarray:
        assert free.wait(PATIENCE_SECONDS)
        return np.zeros(1, np.uint8)

    async def ask() -> None:
        large = [lanes.decode(WAITING_SECONDS / 4, slow) for _ in range(4)]
        with pytest.raises(RequestError, match="already waits") as refused:
            lanes.decode(WAITING_SECONDS / 4, slow)
        assert refused.value.status == 503
        assert (b"retry-after", b"1") in refused.value.headers
        # The small picture and a body are done, although the large ones still wait.
        assert (await lanes.decode(SMALL_SECONDS, lambda: np.ones(2, np.uint8))).all()
        assert await lanes.read(1000, lambda: "read") == "read"
        free.set()
        await asyncio.gather(*large)
        assert not (await lanes.decode(WAITING_SECONDS / 4, slow)).any()

    asyncio.run(ask())


def test_one_task_may_exceed_the_bound_alone() -> None:
    lanes = Lanes()

    async def ask() -> None:
        for _ in range(3):
            alone = lanes.decode(5 * WAITING_SECONDS, lambda: np.ones(1, np.uint8))
            with pytest.raises(RequestError):
                lanes.decode(SMALL_SECONDS * 1.1, lambda: np.ones(1, np.uint8))
            assert (await alone).all()

    asyncio.run(ask())


@pytest.mark.parametrize("seconds", [SMALL_SECONDS, 2 * SMALL_SECONDS])
def test_one_picture_is_decoded_at_a_time_and_errors_free_their_place(seconds: float) -> None:
    lanes, running, most = Lanes(), 0, 0

    def decode() -> np.ndarray:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1
        raise ValueError("damaged")

    async def ask() -> None:
        for _ in range(10):
            asked: list[Awaitable[np.ndarray]] = [lanes.decode(seconds, decode) for _ in range(10)]
            assert all(isinstance(each, ValueError) for each in await asyncio.gather(*asked, return_exceptions=True))

    asyncio.run(ask())
    assert most == 1


def test_cancelled_work_frees_its_place() -> None:
    free = threading.Event()
    lanes = Lanes()

    def wait() -> np.ndarray:
        return np.full(1, free.wait(PATIENCE_SECONDS), np.uint8)

    async def ask() -> None:
        first, second = lanes.decode(0.5, wait), lanes.decode(0.5, wait)
        second.cancel()
        await asyncio.sleep(0)
        third = lanes.decode(0.5, wait)
        free.set()
        assert (await first).all()
        assert (await third).all()

    asyncio.run(ask())
