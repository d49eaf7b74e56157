"""Models of other forms than MNIST's: explanations, and swaps between shapes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from serving.inference.batching import IMAGES_PER_CALL, Answer, Batcher, ShapeError
from serving.inference.explain import SQUARE, SURE, Explainer, background, saliency, step_of
from serving.model.onnx_file import Model
from serving.model.store import Served
from serving.monitoring.metrics import Metrics
from tests.serving.handmade import COLOUR, GREY, pictures, write_model

Digits = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def model(model_file: Path) -> Model:
    return Model.load(model_file)


def served(model: Model, version: str = "1") -> Served:
    return Served(model, version, "a test", "today")


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def matches(answer: Answer, model: Model, images: np.ndarray) -> bool:
    return bool(np.abs(answer.probabilities - model.predict(images)).max() < 1e-5)


@pytest.mark.parametrize("shape", [(14, 14), (28, 28, 3), (784,)])
@pytest.mark.parametrize("alone", [True, False])
def test_images_of_another_shape_are_refused_alone(
    model: Model, test_digits: Digits, shape: tuple[int, ...], alone: bool
) -> None:
    images, odd = test_digits[0], np.zeros((2, *shape), np.uint8)

    async def work() -> None:
        batcher = Batcher(lambda: served(model), 100, Metrics(), lambda: alone)
        bodies = [odd, images[:1], odd, images[1:4], odd]
        answers = await asyncio.gather(*(batcher.submit(body) for body in bodies), return_exceptions=True)
        for answer, body in zip(answers, bodies, strict=True):
            if body is odd:
                assert isinstance(answer, ShapeError)
                assert str(answer) == f"images of shape {list(shape)}, expected [28, 28]"
            else:
                assert isinstance(answer, Answer)
                assert matches(answer, model, body)
        assert batcher.waiting == 0
        assert not batcher._busy
        assert matches(await batcher.submit(images[:2]), model, images[:2])

    run(work)


@pytest.mark.parametrize("seconds_per_image", [0.0, 1.0], ids=["on the loop", "in a thread"])
def test_swap_to_another_shape_refuses_what_waits_and_finishes_what_began(
    model: Model, colour_file: Path, test_digits: Digits, seconds_per_image: float
) -> None:
    digits = served(replace(model, seconds_per_image=seconds_per_image))
    signs = served(replace(Model.load(colour_file), seconds_per_image=seconds_per_image), "2")
    current = [digits]
    large, coloured = test_digits[0][: 3 * IMAGES_PER_CALL], pictures(COLOUR, IMAGES_PER_CALL + 3)

    async def work() -> None:
        batcher = Batcher(lambda: current[0], 1000, Metrics())
        begun = batcher.submit(large)
        await asyncio.sleep(0)  # its first part is computed
        waiting = batcher.submit(large)
        current[0] = signs
        fitting = batcher.submit(coloured)
        answer = await fitting
        assert answer.form is signs.model.form
        assert matches(answer, signs.model, coloured)
        assert matches(await begun, model, large)
        with pytest.raises(ShapeError) as refused:
            await waiting
        assert refused.value.form is signs.model.form
        assert batcher.waiting == 0
        current[0] = digits
        with pytest.raises(ShapeError):
            await batcher.submit(coloured)
        assert matches(await batcher.submit(large), model, large)

    run(work)


@pytest.mark.parametrize("values", [COLOUR, GREY, {**COLOUR, "height": 64, "width": 48}], ids=["32", "grey", "64"])
def test_pictures_of_any_form_are_explained(tmp_path: Path, values: dict[str, Any]) -> None:
    model = Model.load(write_model(tmp_path / "model.onnx", values))
    explainer = Explainer(lambda: served(model), 1)
    image = pictures(values, 1)
    calls = list[int]()

    async def explain() -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads((await explainer.submit(lambda: image))[0])
        return found

    answer = asyncio.run(explain())
    explainer.close()
    assert "digit" not in answer
    assert answer["label"] == values["classes"][answer["class"]]
    assert answer["sure"] == (answer["confidence"] >= SURE)
    assert answer["image"] == image[0].tolist()
    assert np.array(answer["saliency"]).shape == image.shape[1:3]
    assert np.abs(answer["saliency"]).max() > 0

    def counted(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return model.predict(images)

    saliency(counted, image[0], background(image[0], model.form))
    assert sum(calls) <= 290


@pytest.mark.parametrize("values", [COLOUR, GREY, {**COLOUR, "height": 40, "width": 24}], ids=["32", "grey", "40"])
def test_squares_have_the_mean_colour_of_the_border(tmp_path: Path, values: dict[str, Any]) -> None:
    model = Model.load(write_model(tmp_path / "model.onnx", values))
    image = pictures(values, 1)[0]
    border = np.ones(image.shape[:2], bool)
    border[1:-1, 1:-1] = False
    cover = background(image, model.form)
    assert np.abs(cover - image[border].mean(0)).max() <= 0.5
    probabilities, found = saliency(model.predict, image, cover)
    best = probabilities.argmax()

    def odds(of: np.ndarray) -> float:
        row = model.predict(of[None])[0].astype(float)
        return float(np.log(row[best] / np.delete(row, best).sum()))

    step = step_of(*image.shape[:2])
    assert step == (2 if image.shape[0] <= 32 else 4)
    for y, x in ((0, 0), (9, 11), (19, 23)):
        drops = []
        for top in range(y - SQUARE + 1, y + 1):
            for left in range(x - SQUARE + 1, x + 1):
                if top % step == left % step == 0:
                    covered = image.copy()
                    covered[max(top, 0) : top + SQUARE, max(left, 0) : left + SQUARE] = cover
                    drops.append(odds(image) - odds(covered))
        assert found[y, x] == pytest.approx(np.mean(drops), abs=1e-3)


def test_plain_picture_is_explained_as_zero(colour_file: Path) -> None:
    model = Model.load(colour_file)
    image = np.full(model.form.shape, 90, np.uint8)
    _, found = saliency(model.predict, image, background(image, model.form))
    assert found.shape == (32, 32)
    assert not found.any()


def test_image_of_another_shape_is_refused_with_the_shape_expected(model: Model) -> None:
    explainer = Explainer(lambda: served(model), 1)

    async def explain() -> None:
        with pytest.raises(ShapeError) as refused:
            await explainer.submit(lambda: pictures(COLOUR, 1))
        assert (refused.value.found, refused.value.form) == ((32, 32, 3), model.form)

    asyncio.run(explain())
    explainer.close()
