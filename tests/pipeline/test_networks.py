import pytest
import torch

from pipeline.data.dataset import DataSet
from pipeline.networks import DenseNet, MNISTConvNet, VGGNet, build, count_macs, count_parameters, normalise
from pipeline.recipes import RECIPES


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
    assert count_parameters(build(RECIPES[recipe].network)) == parameters


@pytest.mark.parametrize(
    ("recipe", "macs"),
    [
        ("chapter", 28 * 28 * 32 * 9 + 14 * 14 * 64 * 32 * 9 + 3136 * 128 + 128 * 10),
        ("dense", 784 * 128 + 128 * 10),
        ("kernel-5x5", 28 * 28 * 32 * 25 + 14 * 14 * 64 * 32 * 25 + 3136 * 128 + 128 * 10),
    ],
)
def test_macs_are_those_of_one_picture(recipe: str, macs: int) -> None:
    network = build(RECIPES[recipe].network)
    assert count_macs(network) == macs
    assert network.training


@pytest.mark.parametrize("recipe", RECIPES)
def test_examine_returns_the_logits_of_forward(recipe: str, tenth: DataSet) -> None:
    network = build(RECIPES[recipe].network).eval()
    pixels = normalise(tenth.validation.images[:50])
    with torch.inference_mode():
        logits, _ = network.examine(pixels)
        torch.testing.assert_close(logits, network(pixels))


def test_feature_maps_are_taken_after_the_relu_and_before_pooling(tenth: DataSet) -> None:
    network = MNISTConvNet()
    pixels = normalise(tenth.validation.images[:3])
    with torch.inference_mode():
        _, (first, second) = network.examine(pixels)
        assert first.shape == (3, 32, 28, 28)
        assert second.shape == (3, 64, 14, 14)
        torch.testing.assert_close(first, network.convolutions[0](pixels).clamp(min=0))


def test_vgg_net_normalises_by_batch_only_in_training(tenth: DataSet) -> None:
    network, pixels = VGGNet(((8,), (8, 16))), normalise(tenth.validation.images[:64])
    assert not torch.equal(network(pixels), network.eval()(pixels))
    assert torch.equal(network(pixels)[:3], network(pixels[:3]))  # independent of the rest of the batch
    _, maps = network.examine(pixels[:3])
    assert [tuple(layer.shape) for layer in maps] == [(3, 8, 28, 28), (3, 8, 14, 14), (3, 16, 14, 14)]
    assert all(layer.min() >= 0 for layer in maps)


def test_dropout_is_active_only_in_training(tenth: DataSet) -> None:
    network, pixels = MNISTConvNet(dropout=0.5), normalise(tenth.validation.images[:3])
    assert not torch.equal(network(pixels), network(pixels))
    assert torch.equal(network.eval()(pixels), network(pixels))


def test_recipe_decides_the_network() -> None:
    assert isinstance(build(RECIPES["dense"].network), DenseNet)
    network = build(RECIPES["third-block"].network)
    assert [convolution.out_channels for convolution in network.convolutions] == [32, 64, 128]


@pytest.mark.full
def test_normalised_training_digits_have_mean_0_and_variance_1(full_mnist: DataSet) -> None:
    pixels = normalise(full_mnist.train.images)
    assert abs(pixels.mean().item()) < 2e-3
    assert abs(pixels.std().item() - 1) < 2e-3


def test_black_and_white_pixels_are_normalised_to_the_known_values() -> None:
    pixels = normalise(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1))
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-0.1307 / 0.3081, (1 - 0.1307) / 0.3081]))
