"""What each choice brings to the speed of `default` on a CPU: `python -m benchmarks.studies.choices`.

Trains `default` on the bundled tenth as it is, and with one choice undone at a time, each in a process of its own, all
of them in turn in each round. Prints images a second (the fastest of three epochs, medians over the rounds) and the
ratio to `default` in the same round, as a Markdown table. Needs two cores that are otherwise idle.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.recipes import RECIPES, Augmentation

EPOCHS = 3


@dataclass(frozen=True)
class Choice:
    """A way to train `default` that differs in one thing: environment, recipe or code."""

    environment: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, object] = field(default_factory=dict)
    undo: Callable[[], None] = lambda: None


def _plain_layout() -> None:
    import torch

    torch.channels_last = torch.contiguous_format  # every place that asks for the one gets the other


def _rectify_first() -> None:
    from torch.nn import functional

    from pipeline.networks import MNISTConvNet

    def forward(network, pixels):  # type: ignore[no-untyped-def]
        for convolution in network.convolutions:
            pixels = functional.max_pool2d(functional.relu(convolution(pixels)), 2)
        return network._classify(pixels)

    MNISTConvNet.forward = forward  # type: ignore[method-assign]


def _plain_optimizer() -> None:
    import torch

    from pipeline.training import loop as training

    training.make_optimizer = lambda parameters, rate, decay, device: torch.optim.AdamW(  # type: ignore[assignment]
        parameters, lr=rate, weight_decay=decay, foreach=False, fused=False
    )


def _compile() -> None:
    from pipeline import networks
    from pipeline.training import loop as training

    def build(architecture):  # type: ignore[no-untyped-def]
        network = networks.build(architecture)
        network.compile()
        return network

    training.build = build


CHOICES = {
    "`default` as it is": Choice(),
    "float32": Choice(recipe={"mixed_precision": False}),
    "batches of 16": Choice(recipe={"batch_size": 16}),
    "batches of 64": Choice(recipe={"batch_size": 64}),
    "batches of 256": Choice(recipe={"batch_size": 256}),
    "batches of 512": Choice(recipe={"batch_size": 512}),
    "channels first": Choice(undo=_plain_layout),
    "ReLU before pooling": Choice(undo=_rectify_first),
    "AdamW tensor by tensor": Choice(undo=_plain_optimizer),
    "no augmentation": Choice(recipe={"augmentation": Augmentation()}),
    "no averaging of weights": Choice(recipe={"averaging": 0.0}),
    "one thread": Choice({"OMP_NUM_THREADS": "1"}),
    "memory kept from the system": Choice({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}),
    "torch.compile": Choice(undo=_compile),
}


class Rates:
    """A reporter that prints images a second after each epoch."""

    def resume(self, epochs: object, images: int) -> None:
        """Nothing: there is no checkpoint."""

    def step(self, images: int, loss: object) -> None:
        """Nothing."""

    def epoch(self, epoch: object) -> None:
        """Print it."""
        print(epoch.images_per_second, flush=True)  # type: ignore[attr-defined]


def train(name: str) -> None:
    """Train as one choice has it, in this process."""
    choice = CHOICES[name]
    choice.undo()
    import torch

    from pipeline.data import mnist as data
    from pipeline.training import loop as training

    recipe = replace(RECIPES["default"], **choice.recipe)  # type: ignore[arg-type]
    tenth = data.load("tenth", None, Path())
    training.train(recipe, EPOCHS, tenth.train, tenth.validation, torch.device("cpu"), 1, [Rates()])


def rate(name: str) -> float:
    """Images a second in the fastest epoch of a process of its own."""
    environment = {"GOMP_SPINCOUNT": "3000", **os.environ, **CHOICES[name].environment}
    command = [sys.executable, "-m", "benchmarks.studies.choices", "--train", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return max(float(line) for line in done.stdout.split())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", choices=CHOICES, metavar="CHOICE", help="train as one choice has it, and no more")
    arguments = parser.parse_args()
    if arguments.train:
        return train(arguments.train)
    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append({name: rate(name) for name in CHOICES})
        print(f"round {number} of {arguments.rounds} is done", file=sys.stderr, flush=True)
    print("| choice | images/s | ratio to `default`, median (min-max) |")
    print("|---|---|---|")
    first = next(iter(CHOICES))
    for name in CHOICES:
        ratios = [rates[name] / rates[first] for rates in rounds]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {name} | {statistics.median(rates[name] for rates in rounds):,.0f} | {spread} |")
    return None


if __name__ == "__main__":
    main()
