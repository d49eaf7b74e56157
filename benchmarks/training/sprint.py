"""How long a GPU takes to 99 % on test: `python -m benchmarks.training.sprint --runs 30`.

The digits lie on the device. The clock runs from the call of `train`, so it counts building the network, its first
steps and recording the rest; it stands still while the test digits are read, every --every steps, and in the first
training of the process, which is not counted: it loads the libraries. Prints a line a run, then means.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data import mnist as data
from pipeline.data.dataset import DataSet, Digits
from pipeline.evaluation import evaluate
from pipeline.networks import Network
from pipeline.recipes import Recipe, find
from pipeline.training.devices import choose_device, describe_device
from pipeline.training.loop import Epoch, train


class Reached(Exception):  # noqa: N818
    """The accuracy is reached; training may end."""


class Stopwatch:
    """A reporter that reads the test digits every so many steps, and ends training at the wished accuracy."""

    def __init__(self, test: Digits, target: float, every: int) -> None:
        self._test, self._target, self._every = test, target, every
        self._steps, self._since = 0, time.perf_counter()
        self.seconds, self.images = 0.0, 0
        self.epochs: list[Epoch] = []

    def watch(self, network: Network) -> None:
        """Take the network that is judged."""
        self._network = network

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Nothing: each run starts anew."""

    def step(self, images: int, loss: Tensor) -> None:
        """Stop the clock, look, and go on."""
        self.images += images
        self._steps += 1
        if self._steps % self._every:
            return
        loss.item()  # waits for the device
        self.seconds += time.perf_counter() - self._since
        if evaluate(self._network, self._test).accuracy() >= self._target:
            raise Reached
        self._since = time.perf_counter()

    def epoch(self, epoch: Epoch) -> None:
        """Keep its rate; the validation digits that were read just now do not count."""
        self.epochs.append(epoch)
        self._since = time.perf_counter()


def sprint(recipe: Recipe, dataset: DataSet, test: Digits, seed: int, target: float, every: int) -> Stopwatch | None:
    """One training; None if it ended below the target."""
    device = test.labels.device
    watch = Stopwatch(test, target, every)
    try:
        train(recipe, recipe.epochs, dataset.train, dataset.validation, device, seed, [watch], watch=watch.watch)
    except Reached:
        return watch
    return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="default", help="a recipe, or a TOML file of your own")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--every", type=int, default=20, help="steps between two looks at the test digits")
    arguments = parser.parse_args()

    device = choose_device("auto")
    recipe = find(arguments.recipe)
    full = data.load("full", Path(os.environ["MNIST_DIR"]), Path())
    test = full.read_test().to(device)
    dataset = replace(full, train=full.train.to(device), validation=full.validation.to(device))
    print(f"torch {torch.__version__}, {describe_device(device)}, {recipe.name}, {arguments.runs} runs")
    sprint(recipe, dataset, test, 0, 2.0, 10**9)
    seconds = []
    for seed in range(1, arguments.runs + 1):
        run = sprint(recipe, dataset, test, seed, arguments.target, arguments.every)
        if run is None:
            print(f"seed {seed}: not reached")
            continue
        seconds.append(run.seconds)
        print(f"seed {seed}: {run.seconds:.3f} s, {run.images:,} images", flush=True)
    if len(seconds) > 1:
        print(
            f"{arguments.target:.1%} on test reached in {len(seconds)} of {arguments.runs} runs: "
            f"{statistics.mean(seconds):.3f} ± {statistics.stdev(seconds):.3f} s, at most {max(seconds):.3f} s"
        )


if __name__ == "__main__":
    main()
