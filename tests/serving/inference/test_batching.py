import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.contract import Form, Probabilities
from serving.inference.batching import IMAGES_PER_CALL, Answer, Batcher, NoModelError, OverloadedError
from serving.model.onnx_file import Model
from serving.model.store import Served
from serving.monitoring.metrics import Metrics

Digits = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def served(model_file: Path) -> Served:
    return Served(Model.load(model_file), "1", "a test", "today")


class Recorded(Metrics):
    """Metrics that pass the number of images of each call to `observe`."""

    def __init__(self, observe: Callable[[int], object]) -> None:
        super().__init__()
        self._observe = observe

    def called(self, waited: Sequence[float], probabilities: Probabilities, seconds: float, form: Form) -> None:
        super().called(waited, probabilities, seconds, form)
        self._observe(len(probabilities))


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def matches(answer: Answer, served: Served, images: np.ndarray) -> bool:
    return bool(np.abs(answer.probabilities - served.model.predict(images)).max() < 1e-5)


@pytest.mark.parametrize("seconds_per_image", [0.0, 1.0], ids=["on the loop", "in a thread"])
def test_waiting_requests_share_a_call(served: Served, test_digits: Digits, seconds_per_image: float) -> None:
    served = replace(served, model=replace(served.model, seconds_per_image=seconds_per_image))
    images, calls = test_digits[0], list[int]()
    bodies = [images[0:1], images[1:4], images[4:5], images[5:15]]

    async def work() -> None:
        batcher = Batcher(lambda: served, 100, Recorded(calls.append))
        answers = await asyncio.gather(*(batcher.submit(body) for body in bodies))
        assert all(matches(answer, served, body) for answer, body in zip(answers, bodies, strict=True))
        assert batcher.waiting == 0

    run(work)
    assert calls == [15]


def test_sequential_requests_are_separate_calls(served: Served, test_digits: Digits) -> None:
    calls = list[int]()

    async def work() -> None:
        batcher = Batcher(lambda: served, 100, Recorded(calls.append))
        for image in test_digits[0][:3]:
            assert matches(await batcher.submit(image[None]), served, image[None])

    run(work)
    assert calls == [1, 1, 1]


@pytest.mark.parametrize("alone", [True, False])
def test_single_request_bypasses_queue(served: Served, test_digits: Digits, alone: bool) -> None:
    async def work() -> None:
        batcher = Batcher(lambda: served, 100, Metrics(), lambda: alone)
        answer = batcher.submit(test_digits[0][:2])
        assert answer.done() is alone
        assert matches(await answer, served, test_digits[0][:2])
        # A request of more images than one call shares its last call with later requests.
        large = batcher.submit(test_digits[0][: IMAGES_PER_CALL + 1])
        assert not large.done()
        small = batcher.submit(test_digits[0][:1])
        assert matches(await small, served, test_digits[0][:1])
        assert matches(await large, served, test_digits[0][: IMAGES_PER_CALL + 1])

    run(work)


def test_large_request_is_split_and_does_not_delay_a_small_one(served: Served, test_digits: Digits) -> None:
    images, calls, order = test_digits[0], list[int](), list[str]()
    large, small = images[: 3 * IMAGES_PER_CALL + 5], images[-2:]

    async def work() -> None:
        batcher = Batcher(lambda: served, 1000, Recorded(calls.append))
        first, second = batcher.submit(large), batcher.submit(small)
        first.add_done_callback(lambda _: order.append("large"))
        second.add_done_callback(lambda _: order.append("small"))
        assert matches(await first, served, large)
        assert matches(await second, served, small)

    run(work)
    assert max(calls) == IMAGES_PER_CALL
    assert sum(calls) == len(large) + len(small)
    assert order == ["small", "large"]


def test_full_queue_refuses_new_requests_and_answers_accepted_ones(served: Served, test_digits: Digits) -> None:
    images = test_digits[0]

    async def work() -> None:
        batcher = Batcher(lambda: served, 10, Metrics())
        taken = [batcher.submit(images[:6]), batcher.submit(images[6:10])]
        with pytest.raises(OverloadedError):
            batcher.submit(images[10:11])
        for answer, body in zip(await asyncio.gather(*taken), (images[:6], images[6:10]), strict=True):
            assert matches(answer, served, body)
        assert matches(await batcher.submit(images[:10]), served, images[:10])

    run(work)


def test_requests_fail_without_a_model(served: Served, test_digits: Digits) -> None:
    current: list[Served | None] = [None]

    async def work() -> None:
        batcher = Batcher(lambda: current[0], 10, Metrics())
        answers = await asyncio.gather(*(batcher.submit(test_digits[0][:2]) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [NoModelError] * 3
        assert batcher.waiting == 0
        current[0] = served
        assert (await batcher.submit(test_digits[0][:2])).version == "1"

    run(work)


def test_swap_never_mixes_models_within_an_answer(served: Served, test_digits: Digits) -> None:
    current = [served]
    newer = replace(served, version="2")
    large = test_digits[0][: 4 * IMAGES_PER_CALL]

    async def work() -> None:
        def swap_after_first_call(_: int) -> None:
            current[0] = newer

        batcher = Batcher(lambda: current[0], 1000, Recorded(swap_after_first_call))
        before, after = batcher.submit(large), batcher.submit(large[:3])
        assert (await before).version == "1"
        assert (await after).version in ("1", "2")
        assert (await batcher.submit(large[:3])).version == "2"
        assert matches(await before, served, large)

    run(work)


def test_split_request_finishes_on_its_model_after_a_swap(served: Served, test_digits: Digits) -> None:
    current = [served]
    newer = replace(served, version="2")
    large = test_digits[0][: 3 * IMAGES_PER_CALL]

    async def work() -> None:
        batcher = Batcher(lambda: current[0], 1000, Metrics())
        old = batcher.submit(large)
        await asyncio.sleep(0)  # version 1 computes its first part
        current[0] = newer
        new = batcher.submit(large)
        assert [(await answer).version for answer in (old, new)] == ["1", "2"]

    run(work)


def test_cancelled_request_is_not_computed(served: Served, test_digits: Digits) -> None:
    calls = list[int]()

    async def work() -> None:
        batcher = Batcher(lambda: served, 10, Recorded(calls.append))
        cancelled, kept = batcher.submit(test_digits[0][:4]), batcher.submit(test_digits[0][4:7])
        cancelled.cancel()
        await kept
        assert batcher.waiting == 0

    run(work)
    assert calls == [3]


@pytest.mark.parametrize("seconds_per_image", [0.0, 1.0], ids=["on the loop", "in a thread"])
def test_failed_call_does_not_affect_later_requests(
    served: Served, test_digits: Digits, seconds_per_image: float
) -> None:
    served = replace(served, model=replace(served.model, seconds_per_image=seconds_per_image))

    async def work() -> None:
        batcher = Batcher(lambda: served, 100, Metrics())
        with pytest.raises(Exception, match="Unexpected input data type"):
            await batcher.submit(test_digits[0][:2].astype(np.float32))
        assert matches(await batcher.submit(test_digits[0][:2]), served, test_digits[0][:2])

    run(work)


@pytest.mark.parametrize("seconds_per_image", [0.0, 1.0], ids=["on the loop", "in a thread"])
@pytest.mark.parametrize("step", ["_served", "_take", "called", "_hand_out"])
def test_queue_survives_a_failure_in_any_step(
    served: Served, test_digits: Digits, monkeypatch: pytest.MonkeyPatch, step: str, seconds_per_image: float
) -> None:
    served = replace(served, model=replace(served.model, seconds_per_image=seconds_per_image))
    images = test_digits[0]

    async def work() -> None:
        batcher = Batcher(lambda: served, 1000, Metrics())
        owner = batcher._metrics if step == "called" else batcher
        original = getattr(owner, step)

        def fail_once(*arguments: object) -> object:
            monkeypatch.setattr(owner, step, original)
            if step == "_take":  # fail after it has taken a request
                batcher._queue.popleft()
            raise RuntimeError("once")

        monkeypatch.setattr(owner, step, fail_once)
        split, small = batcher.submit(images[: 2 * IMAGES_PER_CALL]), batcher.submit(images[:3])
        with pytest.raises(RuntimeError, match="once"):
            await split
        await asyncio.wait([small])
        assert batcher.waiting == 0
        assert matches(await batcher.submit(images[:2]), served, images[:2])

        # Only requests in the failed batch fail: the small one was queued behind the first part of the large one.
        if step in ("called", "_hand_out"):
            assert matches(await small, served, images[:3])
        else:
            assert isinstance(small.exception(), RuntimeError)

    run(work)


def test_request_fails_after_thread_shutdown(served: Served, test_digits: Digits) -> None:
    served = replace(served, model=replace(served.model, seconds_per_image=1.0))

    async def work() -> None:
        batcher = Batcher(lambda: served, 100, Metrics())
        batcher.close()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shutdown"):
                await batcher.submit(test_digits[0][:1])

    run(work)


def test_calls_waiting_times_and_predictions_are_counted(served: Served, test_digits: Digits) -> None:
    images, metrics = test_digits[0], Metrics()
    large = IMAGES_PER_CALL + 20
    value = metrics.registry.get_sample_value
    queued = list[float | None]()

    async def work() -> None:
        batcher = Batcher(lambda: served, 1000, metrics)
        waiting = [batcher.submit(images[:large]), batcher.submit(images[large : large + 3])]
        metrics.write()
        queued.append(value("digits_queue_images"))
        await asyncio.gather(*waiting)
        cancelled = batcher.submit(images[:4])
        cancelled.cancel()
        await batcher.submit(images[:1])
        metrics.write()

    run(work)
    assert queued == [large + 3]
    assert value("digits_queue_images") == 0
    assert value("digits_images_per_call_sum") == value("digits_confidence_count") == large + 4
    calls = value("digits_images_per_call_count")
    assert calls == value("digits_model_seconds_count") == 3
    assert value("digits_queue_seconds_count") == 3  # requests; one of them took two calls
    computed = np.concatenate([images[: large + 3], images[:1]])
    counts = np.bincount(served.model.predict(computed).argmax(1), minlength=10)
    assert [value("digits_predicted_total", {"digit": str(digit)}) for digit in range(10)] == counts.tolist()


def test_failed_call_resets_the_queue_metric(served: Served, test_digits: Digits) -> None:
    metrics = Metrics()

    async def work() -> None:
        batcher = Batcher(lambda: None, 100, metrics)
        with pytest.raises(NoModelError):
            await batcher.submit(test_digits[0][:2])
        metrics.write()

    run(work)
    assert metrics.registry.get_sample_value("digits_queue_images") == 0
    assert metrics.registry.get_sample_value("digits_images_per_call_count") == 0
