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

from pipeline.data.dataset import Task
from pipeline.recipes import Architecture, ConvArchitecture, DenseArchitecture, RecipeError


def normalise(images: Tensor, task: Task) -> Tensor:
    """Scale pictures to zero mean and unit variance over the training pixels, the input of all networks.

    Args:
        images: [n, height, width] or [n, height, width, 3], uint8 or float, 0 to 255.
        task: whose mean and deviation count.

    Returns:
        float32 [n, channels, height, width].
    """
    # Numbers, not tensors: fewer steps in the exported file, and nothing to copy to a GPU.
    scales = [1 / (255 * deviation) for deviation in task.deviation]
    shifts = [mean / deviation for mean, deviation in zip(task.mean, task.deviation, strict=True)]
    if task.channels == 1:
        return images.unsqueeze(1).to(torch.float32) * scales[0] - shifts[0]
    pixels = images.to(torch.float32)
    return torch.stack([pixels[..., k] * scales[k] - shifts[k] for k in range(task.channels)], dim=1)


class Network(nn.Module):
    """The interface of all networks: `forward` returns logits, `examine` also the feature maps behind them.

    Args:
        task: decides the first layer's inputs and the last layer's outputs.
    """

    convolutions: nn.ModuleList

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits float32 [n, classes], and of each convolution its feature maps float32 [n, channels, h, w]."""
        raise NotImplementedError


class MNISTConvNet(Network):
    """The chapter's network: convolutions, each with ReLU and pooling, then two linear layers.

    421,642 parameters on MNIST.

    Source: the chapter "Convolutional Neural Networks" that the project starts from. It claims about 77,000
    parameters, but the first linear layer alone has 3136 x 128 = 401,408. The arguments are the chapter's exercises.

    Args:
        task: see `Network`.
        filters: number of filters of each convolution; pooling after each halves the picture's side.
        kernel_size: side of a filter in pixels; odd, so that padding keeps the picture's size.
        dropout: share of the hidden units dropped in each training step (Srivastava et al., 2014).
    """

    def __init__(
        self, task: Task, filters: Sequence[int] = (32, 64), kernel_size: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__(task)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
            for inputs, outputs in pairwise([task.channels, *filters])
        )
        self.hidden = nn.Linear(filters[-1] * _pooled_area(task, len(filters)), 128)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(128, len(task.classes))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures, float32 [n, channels, height, width], to logits, float32 [n, classes]."""
        for convolution in self.convolutions:
            pixels = functional.relu(functional.max_pool2d(convolution(pixels), 2))
        return self._classify(pixels)

    def examine(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits and feature maps; on MNIST, with the chapter's filters, [n, 32, 28, 28] and [n, 64, 14, 14]."""
        maps: list[Tensor] = []
        for convolution in self.convolutions:
            maps.append(functional.relu(convolution(pixels)))
            pixels = functional.max_pool2d(maps[-1], 2)
        return self._classify(pixels), maps

    def _classify(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(functional.relu(self.hidden(pixels.flatten(1)))))
        return logits


class DenseNet(Network):
    """The dense network, the chapter's baseline: 784 -> 128 -> 10 on MNIST, with 101,770 parameters."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.convolutions = nn.ModuleList()
        self.hidden = nn.Linear(task.channels * task.height * task.width, 128)
        self.output = nn.Linear(128, len(task.classes))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures, float32 [n, channels, height, width], to logits, float32 [n, classes]."""
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
        task: see `Network`.
        blocks: number of filters of each convolution, block by block; each block halves the picture's side.
        dropout: share of the last features dropped in each training step.
        first_kernel_size: side of the first convolution's filters in pixels, odd.
    """

    def __init__(
        self, task: Task, blocks: Sequence[Sequence[int]], dropout: float = 0.0, first_kernel_size: int = 3
    ) -> None:
        super().__init__(task)
        filters = [width for block in blocks for width in block]
        self._pooled = [place == len(block) for block in blocks for place in range(1, len(block) + 1)]
        sides = [first_kernel_size] + [3] * (len(filters) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
            for side, (inputs, outputs) in zip(sides, pairwise([task.channels, *filters]), strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in filters)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters[-1] * _pooled_area(task, len(blocks)), len(task.classes))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pictures, float32 [n, channels, height, width], to logits, float32 [n, classes]."""
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


def build(architecture: Architecture, task: Task) -> Network:
    """Build a recipe's network for a task; torch's random state decides its weights.

    Raises:
        RecipeError: the network halves the pictures more often than their side allows.
    """
    halved = len(getattr(architecture, "filters", getattr(architecture, "blocks", ())))
    if not _pooled_area(task, halved):
        raise RecipeError(
            f"network: it halves the pictures {halved} times, which {task.height}x{task.width} pixels do not allow"
        )
    if isinstance(architecture, ConvArchitecture):
        return MNISTConvNet(task, architecture.filters, architecture.kernel_size, architecture.dropout)
    if isinstance(architecture, DenseArchitecture):
        return DenseNet(task)
    return VGGNet(task, architecture.blocks, architecture.dropout, architecture.first_kernel_size)


def _pooled_area(task: Task, halved: int) -> int:
    """Pixels of a feature map whose sides were halved this many times."""
    return (task.height >> halved) * (task.width >> halved)


def count_parameters(network: nn.Module) -> int:
    """Count the trained weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: Network) -> int:
    """Count the multiply-accumulates of one picture in convolutions and linear layers; the rest is negligible."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(normalise(torch.zeros(1, *network.task.shape), network.task))
    network.train(was_training)
    flops: int = counter.get_total_flops()
    return flops // 2  # one multiplication and one addition
