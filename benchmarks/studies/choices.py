"""Effect of each design choice on the training speed of `default` on a CPU: `python -m benchmarks.studies.choices`.

How it is measured: each run trains `default` on the bundled tenth for three epochs in a process of its own, with one
choice undone; all choices take turns in each round. Prints images/s of the fastest epoch (medians over the rounds) and
the ratio to the unchanged recipe of the same round, as a Markdown table. Needs two idle cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # the command line's setting; must precede the import of torch
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness.tables import markdown, spread
from pipeline import networks
from pipeline.data import mnist
from pipeline.data.dataset import MNIST
from pipeline.networks import MNISTConvNet
from pipeline.recipes import RECIPES, Augmentation
from pipeline.training import loop
from pipeline.training.run import Run

EPOCHS = 3


@dataclass(frozen=True)
class Choice:
    """One difference from `default`: in the environment, in fields of the recipe, or in the code."""

    environment: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    undo: Callable[[], object] = lambda: None


def _channels_first() -> None:
    patch.object(torch, "channels_last", torch.contiguous_format).start()


def _relu_before_pooling() -> None:
    def forward(network: MNISTConvNet, pixels: Tensor) -> Tensor:
        for convolution in network.convolutions:
            pixels = functional.max_pool2d(functional.relu(convolution(pixels)), 2)
        return network._classify(pixels)

    patch.object(MNISTConvNet, "forward", forward).start()


def _optimizer_without_fusion() -> None:
    def make_optimizer(parameters: Any, rate: float, decay: float, device: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, foreach=False, fused=False)

    patch.object(loop, "make_optimizer", make_optimizer).start()


def _compiled() -> None:
    def build(architecture: Any) -> networks.Network:
        network = networks.build(architecture, MNIST)
        network.compile()
        return network

    patch.object(loop, "build", build).start()


CHOICES = {
    "`default`, unchanged": Choice(),
    "float32": Choice(recipe={"mixed_precision": False}),
    "batches of 16": Choice(recipe={"batch_size": 16}),
    "batches of 64": Choice(recipe={"batch_size": 64}),
    "batches of 256": Choice(recipe={"batch_size": 256}),
    "batches of 512": Choice(recipe={"batch_size": 512}),
    "channels first": Choice(undo=_channels_first),
    "ReLU before pooling": Choice(undo=_relu_before_pooling),
    "AdamW tensor by tensor": Choice(undo=_optimizer_without_fusion),
    "no augmentation": Choice(recipe={"augmentation": Augmentation()}),
    "no averaging of weights": Choice(recipe={"averaging": 0.0}),
    "one thread": Choice({"OMP_NUM_THREADS": "1"}),
    "no memory returned to the system": Choice({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}),
    "torch.compile": Choice(undo=_compiled),
}


def train(name: str) -> None:
    """Train with one choice undone, in this process."""
    CHOICES[name].undo()
    recipe = replace(RECIPES["default"], epochs=EPOCHS, epochs_on_tenth=None, **CHOICES[name].recipe)
    trained = loop.train(Run(recipe, 1, mnist.load("tenth", None, Path()), torch.device("cpu")))
    for epoch in trained.epochs:
        print(epoch.images_per_second)


def rate(name: str) -> float:
    """Images/s of the fastest epoch, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.studies.choices", "--train", name]
    environment = {**os.environ, **CHOICES[name].environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return max(float(line) for line in done.stdout.split())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", choices=CHOICES, metavar="CHOICE", help="only train with this choice undone")
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train)
        return
    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append({name: rate(name) for name in CHOICES})
        print(f"round {number} of {arguments.rounds}: done", file=sys.stderr, flush=True)
    rows = []
    for name in CHOICES:
        ratios = [rates[name] / rates["`default`, unchanged"] for rates in rounds]
        rows.append((name, f"{statistics.median(rates[name] for rates in rounds):,.0f}", spread(ratios, ".2f")))
    print(markdown(("choice", "images/s", "ratio to `default`, median (min-max)"), rows))


if __name__ == "__main__":
    main()
