"""The networks. Each is called with normalised pictures and answers with logits.

`examine` also gives the feature maps as the book draws them, after each ReLU and before pooling. `forward` pools
first: both orders give the same numbers, since max pooling and ReLU commute, and the ReLU then has a quarter of the
work.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.recipes import Architecture

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
    """What training, export and pictures need of a network: logits, and the feature maps behind them."""

    convolutions: nn.ModuleList

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n, 10], and for each convolution its feature maps float32 [n, channels, height, width]."""
        raise NotImplementedError


class MNISTConvNet(Network):
    """The chapter's network: convolutions, each with ReLU and pooling, then two linear layers; 421,642 parameters.

    Source: the chapter "Convolutional Neural Networks" that the project starts from, which counts its parameters
    as about 77,000; 3136 x 128 in the first linear layer alone are 401,408. The arguments are its exercises.

    Args:
        filters: of each convolution; each halves the picture's side by pooling.
        kernel_size: side of a filter in pixels, odd, so that padding keeps the picture's size.
        dropout: share of the hidden units that is left out of each training step (Srivastava et al., 2014).
    """

    def __init__(self, filters: Sequence[int] = (32, 64), kernel_size: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
            for inputs, outputs in pairwise([1, *filters])
        )
        side = 28 // 2 ** len(filters)
        self.hidden = nn.Linear(filters[-1] * side * side, 128)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 [n, 1, 28, 28], normalised, to logits float32 [n, 10]."""
        for convolution in self.convolutions:
            pixels = functional.relu(functional.max_pool2d(convolution(pixels), 2))
        return self._classify(pixels)

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, with the feature maps; for the chapter's filters [n, 32, 28, 28] and [n, 64, 14, 14]."""
        maps: list[Tensor] = []
        for convolution in self.convolutions:
            maps.append(functional.relu(convolution(pixels)))
            pixels = functional.max_pool2d(maps[-1], 2)
        return self._classify(pixels), maps

    def _classify(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(functional.relu(self.hidden(pixels.flatten(1)))))
        return logits


class DenseNet(Network):
    """The dense network that the chapter compares with: 784 -> 128 -> 10; 101,770 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.hidden = nn.Linear(28 * 28, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 [n, 1, 28, 28], normalised, to logits float32 [n, 10]."""
        logits: Tensor = self.output(functional.relu(self.hidden(pixels.flatten(1))))
        return logits

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`; a network without convolutions has no feature maps."""
        return self(pixels), []


def build(architecture: Architecture) -> Network:
    """The network that a recipe describes, with the weights that torch's random state gives it."""
    if architecture.name == "DenseNet":
        return DenseNet()
    return MNISTConvNet(architecture.filters, architecture.kernel_size, architecture.dropout)


def count_parameters(network: nn.Module) -> int:
    """The number of trained weights."""
    return sum(parameter.numel() for parameter in network.parameters())
