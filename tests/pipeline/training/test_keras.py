"""The chapter's Keras network with our weights returns our probabilities."""

import importlib
import os
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data.dataset import MNIST, DataSet
from pipeline.evaluation import evaluate
from pipeline.networks import MNISTConvNet, Network, count_parameters, normalise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chapter_in_keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    keras = importlib.import_module("keras")  # untyped

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def in_keras_order(network: MNISTConvNet) -> list[NDArray[np.float32]]:
    """Return our weights in the layout of Keras: channels last, linear layers as [inputs, outputs]."""
    ours = {name: weights.detach().numpy() for name, weights in network.named_parameters()}
    hidden = ours["hidden.weight"].reshape(128, 64, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 128)
    return [
        ours["convolutions.0.weight"].transpose(2, 3, 1, 0),
        ours["convolutions.0.bias"],
        ours["convolutions.1.weight"].transpose(2, 3, 1, 0),
        ours["convolutions.1.bias"],
        hidden,
        ours["hidden.bias"],
        ours["output.weight"].T,
        ours["output.bias"],
    ]


def test_keras_network_has_as_many_parameters(chapter_in_keras: Any, network: Network) -> None:
    assert chapter_in_keras.count_params() == count_parameters(network) == 421_642


def test_keras_network_returns_the_same_probabilities(chapter_in_keras: Any, network: Network, tenth: DataSet) -> None:
    assert isinstance(network, MNISTConvNet)
    chapter_in_keras.set_weights(in_keras_order(network))
    test = tenth.read_test()
    with torch.inference_mode():
        pixels = normalise(test.images, MNIST).permute(0, 2, 3, 1).contiguous()
        theirs = chapter_in_keras(pixels, training=False).cpu()
    ours = evaluate(network, test).probabilities()
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
