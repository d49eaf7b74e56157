import pytest
import torch

from pipeline.data import DataSet
from pipeline.networks import NETWORKS, MNISTConvNet, count_parameters, normalise


@pytest.mark.parametrize(("name", "parameters"), [("MNISTConvNet", 421_642), ("DenseNet", 101_770)])
def test_parameters_are_those_of_the_chapter(name: str, parameters: int) -> None:
    assert count_parameters(NETWORKS[name]()) == parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_looking_inside_changes_no_answer(name: str, tenth: DataSet) -> None:
    network = NETWORKS[name]().eval()
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
        torch.testing.assert_close(first, network.conv1(pixels).clamp(min=0))


@pytest.mark.full
def test_normalised_training_digits_have_mean_0_and_variance_1(full_mnist: DataSet) -> None:
    pixels = normalise(full_mnist.train.images)
    assert abs(pixels.mean().item()) < 2e-3
    assert abs(pixels.std().item() - 1) < 2e-3


def test_normalise_knows_black_and_white() -> None:
    pixels = normalise(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1))
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-0.1307 / 0.3081, (1 - 0.1307) / 0.3081]))
