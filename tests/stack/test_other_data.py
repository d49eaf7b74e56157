"""Other data sets in containers: the real Fashion-MNIST, and a folder of rendered pictures."""

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline.data import named
from tests.served import assert_equals_torch, predict
from tests.symbols import SYMBOLS, make_folder

from .compose import Stack

pytestmark = pytest.mark.stack

FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


def test_fashion_mnist_is_trained_and_served(another_stack: Callable[..., Stack]) -> None:
    if not FASHION.exists():
        pytest.fail("install Debian's package dataset-fashion-mnist: the stack is tested on the real Fashion-MNIST")
    stack = another_stack(
        DATASET_DIR=str(FASHION),
        PIPELINE_DATASET="fashion-mnist",
        PIPELINE_RECIPE="dense",  # the quickest
        PIPELINE_MINIMUM_ACCURACY="0.8",
        SERVING_MODEL_NAME="fashion-mnist",
    )
    stack.up()
    model = httpx.get(f"{stack.service}/model").raise_for_status().json()
    assert (model["dataset"], model["classes"][9]) == ("fashion-mnist", "Ankle boot")
    test = named.load("fashion-mnist", "full", FASHION, None, Path()).read_test()
    answers = predict(stack.service, test.images.numpy())
    assert_equals_torch(answers, stack.artifact("predictions/test.npz"), 10_000, 10)
    assert np.mean([answer["class"] for answer in answers] == test.labels.numpy()) >= 0.8
    assert "digit" not in answers[0]


def test_folder_of_pictures_is_trained_and_served(another_stack: Callable[..., Stack], tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "My symbols", per_class=(40, 60), classes=4)
    for path in (tmp_path, *tmp_path.rglob("*")):  # the user in the container is not the owner
        path.chmod(0o755 if path.is_dir() else 0o644)
    stack = another_stack(
        PICTURES=str(folder),
        PICTURES_NAME="symbols",
        PIPELINE_DATASET="folder:/pictures/symbols",
        PIPELINE_RECIPE="dense",
        PIPELINE_MINIMUM_ACCURACY="0",
        SERVING_MODEL_NAME="symbols",
    )
    stack.up()
    model = httpx.get(f"{stack.service}/model").raise_for_status().json()
    assert model["classes"] == sorted(list(SYMBOLS)[:4])
    assert (model["height"], model["width"], model["channels"]) == (28, 28, 3)
    picture = next((folder / "heart").iterdir())
    answer = httpx.post(f"{stack.service}/predict/files", files={"files": picture.read_bytes()}, timeout=60)
    assert answer.raise_for_status().json()[0]["label"] in model["classes"]
    assert "pictures of" in stack.log("train")
