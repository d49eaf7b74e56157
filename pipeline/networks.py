"""The networks. Each is called with normalised pictures and answers with logits.

`examine` also gives the feature maps as the book draws them, after each ReLU and before pooling. `forward` pools
first: both orders give the same numbers, since max pooling and ReLU commute, and the ReLU then has a quarter of the
work.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels, in [0, 1]


def normalise(images: Tensor) -> Tensor:
    """Pictures as the networks take them: zero mean, unit variance over MNIST.

    Args:
        images: [n, 28, 28], uint8 or float, 0 to 255.

    Returns:
        float32 [n, 1, 28, 28].
    """
    scale = 1 / (255 * STANDARD_DEVIATION)
    return images.unsqueeze(1).to(torch.float32) * scale - MEAN / STANDARD_DEVIATION


class Network(nn.Module):
    """What training and export need of a network: logits, and the feature maps behind them."""

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n, 10], and for each convolution its feature maps float32 [n, channels, height, width]."""
        raise NotImplementedError


class MNISTConvNet(Network):
    """The chapter's network: two convolutions with pooling, then two linear layers; 421,642 parameters.

    Source: the chapter "Convolutional Neural Networks" that the project starts from, which counts its parameters
    as about 77,000; 3136 x 128 in the first linear layer alone are 401,408.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.hidden = nn.Linear(64 * 7 * 7, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 [n, 1, 28, 28], normalised, to logits float32 [n, 10]."""
        pooled = functional.relu(functional.max_pool2d(self.conv1(pixels), 2))
        pooled = functional.relu(functional.max_pool2d(self.conv2(pooled), 2))
        return self._classify(pooled)

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, with the feature maps [n, 32, 28, 28] and [n, 64, 14, 14]."""
        first = functional.relu(self.conv1(pixels))
        second = functional.relu(self.conv2(functional.max_pool2d(first, 2)))
        return self._classify(functional.max_pool2d(second, 2)), [first, second]

    def _classify(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.output(functional.relu(self.hidden(maps.flatten(1))))
        return logits


class DenseNet(Network):
    """The dense network that the chapter compares with: 784 -> 128 -> 10; 101,770 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(28 * 28, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 [n, 1, 28, 28], normalised, to logits float32 [n, 10]."""
        logits: Tensor = self.output(functional.relu(self.hidden(pixels.flatten(1))))
        return logits

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`; a network without convolutions has no feature maps."""
        return self(pixels), []


NETWORKS: dict[str, Callable[[], Network]] = {"MNISTConvNet": MNISTConvNet, "DenseNet": DenseNet}


def count_parameters(network: nn.Module) -> int:
    """The number of trained weights."""
    return sum(parameter.numel() for parameter in network.parameters())
