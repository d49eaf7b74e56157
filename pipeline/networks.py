"""The networks: normalised pictures in, logits out.

`examine` also returns the feature maps as the book draws them: after each ReLU, before pooling. `forward` pools
first: max pooling and ReLU commute, and the ReLU then has a quarter of the work.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.recipes import Architecture, ConvArchitecture, DenseArchitecture

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels, in [0, 1]


def normalise(images: Tensor) -> Tensor:
    """Scale pictures to zero mean and unit variance over MNIST, the input of all networks.

    Args:
        images: [n, 28, 28], uint8 or float, 0 to 255.

    Returns:
        float32 [n, 1, 28, 28].
    """
    scale = 1 / (255 * STANDARD_DEVIATION)
    return images.unsqueeze(1).to(torch.float32) * scale - MEAN / STANDARD_DEVIATION


class Network(nn.Module):
    """The interface of all networks: `forward` returns logits, `examine` also the feature maps behind them."""

    convolutions: nn.ModuleList

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits float32 [n, 10], and of each convolution its feature maps float32 [n, channels, h, w]."""
        raise NotImplementedError


class MNISTConvNet(Network):
    """The chapter's network: convolutions, each with ReLU and pooling, then two linear layers; 421,642 parameters.

    Source: the chapter "Convolutional Neural Networks" that the project starts from. It claims about 77,000
    parameters, but the first linear layer alone has 3136 x 128 = 401,408. The arguments are the chapter's exercises.

    Args:
        filters: number of filters of each convolution; pooling after each halves the picture's side.
        kernel_size: side of a filter in pixels; odd, so that padding keeps the picture's size.
        dropout: share of the hidden units dropped in each training step (Srivastava et al., 2014).
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
        """Map normalised pictures, float32 [n, 1, 28, 28], to logits, float32 [n, 10]."""
        for convolution in self.convolutions:
            pixels = functional.relu(functional.max_pool2d(convolution(pixels), 2))
        return self._classify(pixels)

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits and feature maps; for the chapter's filters [n, 32, 28, 28] and [n, 64, 14, 14]."""
        maps: list[Tensor] = []
        for convolution in self.convolutions:
            maps.append(functional.relu(convolution(pixels)))
            pixels = functional.max_pool2d(maps[-1], 2)
        return self._classify(pixels), maps

    def _classify(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(functional.relu(self.hidden(pixels.flatten(1)))))
        return logits


class DenseNet(Network):
    """The dense network, the chapter's baseline: 784 -> 128 -> 10; 101,770 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.hidden = nn.Linear(28 * 28, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures, float32 [n, 1, 28, 28], to logits, float32 [n, 10]."""
        logits: Tensor = self.output(functional.relu(self.hidden(pixels.flatten(1))))
        return logits

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits and no feature maps: there are no convolutions."""
        return self(pixels), []


class VGGNet(Network):
    """Blocks of 3x3 convolutions, each with batch normalisation and ReLU; pooling ends a block; one linear layer.

    Source: Simonyan & Zisserman, "Very Deep Convolutional Networks" (2015), with batch normalisation (Ioffe & Szegedy,
    2015). The last convolution of a block is pooled before normalisation, which then has a quarter of the work.

    Args:
        blocks: number of filters of each convolution, block by block; each block halves the picture's side.
        dropout: share of the last features dropped in each training step.
        first_kernel_size: side of the first convolution's filters in pixels, odd.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], dropout: float = 0.0, first_kernel_size: int = 3) -> None:
        super().__init__()
        filters = [width for block in blocks for width in block]
        self._pooled = [place == len(block) for block in blocks for place in range(1, len(block) + 1)]
        sides = [first_kernel_size] + [3] * (len(filters) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
            for side, (inputs, outputs) in zip(sides, pairwise([1, *filters]), strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in filters)
        side = 28 // 2 ** len(blocks)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters[-1] * side * side, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures, float32 [n, 1, 28, 28], to logits, float32 [n, 10]."""
        for convolution, norm, pooled in zip(self.convolutions, self.norms, self._pooled, strict=True):
            pixels = convolution(pixels)
            pixels = functional.relu(norm(functional.max_pool2d(pixels, 2) if pooled else pixels))
        logits: Tensor = self.output(self.dropout(pixels.flatten(1)))
        return logits

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits and the feature maps of each convolution, before pooling."""
        maps: list[Tensor] = []
        for convolution, norm, pooled in zip(self.convolutions, self.norms, self._pooled, strict=True):
            pixels = convolution(pixels)
            maps.append(functional.relu(norm(pixels)))
            pixels = functional.relu(norm(functional.max_pool2d(pixels, 2))) if pooled else maps[-1]
        logits: Tensor = self.output(self.dropout(pixels.flatten(1)))
        return logits, maps


def build(architecture: Architecture) -> Network:
    """Build a recipe's network; torch's random state decides its weights."""
    if isinstance(architecture, ConvArchitecture):
        return MNISTConvNet(architecture.filters, architecture.kernel_size, architecture.dropout)
    if isinstance(architecture, DenseArchitecture):
        return DenseNet()
    return VGGNet(architecture.blocks, architecture.dropout, architecture.first_kernel_size)


def count_parameters(network: nn.Module) -> int:
    """Count the trained weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module) -> int:
    """Count the multiply-accumulates of one picture in convolutions and linear layers; the rest is negligible."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(normalise(torch.zeros(1, 28, 28)))
    network.train(was_training)
    flops: int = counter.get_total_flops()
    return flops // 2  # one multiplication and one addition
