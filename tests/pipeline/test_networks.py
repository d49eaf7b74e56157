from dataclasses import replace

import pytest
import torch

from pipeline.data.dataset import MNIST, DataSet, Task
from pipeline.networks import DenseNet, MNISTConvNet, VGGNet, build, count_macs, count_parameters, normalise
from pipeline.recipes import RECIPES, ConvArchitecture, RecipeError


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        ("chapter", 421_642),
        ("dense", 101_770),
        ("third-block", 320 + 18_496 + 73_856 + 1152 * 128 + 128 + 1_290),
        ("kernel-5x5", 832 + 51_264 + 401_536 + 1_290),
        ("dropout", 421_642),
        ("compact", 75_538),
        ("best", 48 * 25 + 96 + 41_472 + 192 + 82_944 + 192 + 165_888 + 384 + 192 * 9 * 10 + 10),
    ],
)
def test_parameters_are_those_of_the_chapter(recipe: str, parameters: int) -> None:
    assert count_parameters(build(RECIPES[recipe].network, MNIST)) == parameters


@pytest.mark.parametrize(
    ("recipe", "macs"),
    [
        ("chapter", 28 * 28 * 32 * 9 + 14 * 14 * 64 * 32 * 9 + 3136 * 128 + 128 * 10),
        ("dense", 784 * 128 + 128 * 10),
        ("kernel-5x5", 28 * 28 * 32 * 25 + 14 * 14 * 64 * 32 * 25 + 3136 * 128 + 128 * 10),
    ],
)
def test_macs_are_those_of_one_picture(recipe: str, macs: int) -> None:
    network = build(RECIPES[recipe].network, MNIST)
    assert count_macs(network) == macs
    assert network.training


@pytest.mark.parametrize("recipe", RECIPES)
def test_examine_returns_the_logits_of_forward(recipe: str, tenth: DataSet) -> None:
    network = build(RECIPES[recipe].network, MNIST).eval()
    pixels = normalise(tenth.validation.images[:50], MNIST)
    with torch.inference_mode():
        logits, _ = network.examine(pixels)
        torch.testing.assert_close(logits, network(pixels))


def test_feature_maps_are_taken_after_the_relu_and_before_pooling(tenth: DataSet) -> None:
    network = MNISTConvNet(MNIST)
    pixels = normalise(tenth.validation.images[:3], MNIST)
    with torch.inference_mode():
        _, (first, second) = network.examine(pixels)
        assert first.shape == (3, 32, 28, 28)
        assert second.shape == (3, 64, 14, 14)
        torch.testing.assert_close(first, network.convolutions[0](pixels).clamp(min=0))


def test_vgg_net_normalises_by_batch_only_in_training(tenth: DataSet) -> None:
    network, pixels = VGGNet(MNIST, ((8,), (8, 16))), normalise(tenth.validation.images[:64], MNIST)
    assert not torch.equal(network(pixels), network.eval()(pixels))
    others = torch.cat([pixels[:3], pixels[3:].flip(0)])  # as many: other batch sizes may round differently
    assert torch.equal(network(pixels)[:3], network(others)[:3])  # independent of the rest of the batch
    _, maps = network.examine(pixels[:3])
    assert [tuple(layer.shape) for layer in maps] == [(3, 8, 28, 28), (3, 8, 14, 14), (3, 16, 14, 14)]
    assert all(layer.min() >= 0 for layer in maps)


def test_dropout_is_active_only_in_training(tenth: DataSet) -> None:
    network, pixels = MNISTConvNet(MNIST, dropout=0.5), normalise(tenth.validation.images[:3], MNIST)
    assert not torch.equal(network(pixels), network(pixels))
    assert torch.equal(network.eval()(pixels), network(pixels))


def test_recipe_decides_the_network() -> None:
    assert isinstance(build(RECIPES["dense"].network, MNIST), DenseNet)
    network = build(RECIPES["third-block"].network, MNIST)
    assert [convolution.out_channels for convolution in network.convolutions] == [32, 64, 128]


@pytest.mark.full
def test_normalised_training_digits_have_mean_0_and_variance_1(full_mnist: DataSet) -> None:
    pixels = normalise(full_mnist.train.images, MNIST)
    assert abs(pixels.mean().item()) < 2e-3
    assert abs(pixels.std().item() - 1) < 2e-3


def test_black_and_white_pixels_are_normalised_to_the_known_values() -> None:
    pixels = normalise(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1), MNIST)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-0.1307 / 0.3081, (1 - 0.1307) / 0.3081]))


TASK = Task("letters", tuple("abcdefghijklm"), 32, 24, 3, (0.5, 0.25, 0.1), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("recipe", RECIPES)
def test_first_and_last_layer_follow_the_task(recipe: str) -> None:
    network = build(RECIPES[recipe].network, TASK).eval()
    with torch.inference_mode():
        logits, _ = network.examine(normalise(torch.zeros(2, *TASK.shape, dtype=torch.uint8), TASK))
    assert logits.shape == (2, 13)


def test_each_channel_is_normalised_by_its_own_mean_and_deviation() -> None:
    white = normalise(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), TASK)
    torch.testing.assert_close(white.flatten(), torch.tensor([0.5 / 0.2, 0.75 / 0.3, 0.9 / 0.4]))


def test_network_that_halves_small_pictures_too_often_is_refused() -> None:
    with pytest.raises(RecipeError, match="it halves the pictures 4 times, which 8x8 pixels do not allow"):
        build(ConvArchitecture(filters=(2, 2, 2, 2)), replace(TASK, height=8, width=8))
