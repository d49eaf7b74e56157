"""A recipe as the pipeline trains it: `python -m benchmarks.training.timed_run --data FOLDER`.

Each line on its standard input is a seed: a network is trained by `pipeline.training.train` until it reads the target's
share of the test digits right, but at least for one whole epoch, and what that took is written as one line of JSON.

Every 50 steps the clock stops and the network that would be kept, with the averaged weights, is judged on all test
digits. The clock starts when `train` is called; judging the validation digits after an epoch is part of the time.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does, before torch is imported
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.ratios import reached
from pipeline.data import mnist as data
from pipeline.data.dataset import Digits
from pipeline.evaluation import evaluate
from pipeline.networks import Network, build
from pipeline.recipes import Recipe, find
from pipeline.training.devices import choose_device, choose_precision, describe_device
from pipeline.training.loop import Epoch, train

JUDGE_EVERY = 50  # steps
SIDES = (1024, 2048)  # of the square matrices by which the rate is measured
SIDES_ON_GPU = (4096, 8192)


class Reached(Exception):  # noqa: N818 - nothing went wrong
    """Training may end."""


class Judge:
    """Stops the clock and judges; `curve` holds (seconds, accuracy), `rates` images a second in each whole epoch."""

    def __init__(self, test: Digits, target: float) -> None:
        self._test, self._target = test, target
        self._steps, self._paused, self._paused_in_epoch = 0, 0.0, 0.0
        self.curve: list[tuple[float, float]] = []
        self.rates: list[float] = []
        self._started = time.perf_counter()

    def watch(self, network: Network) -> None:
        """Take the network that is judged."""
        self._network = network

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Nothing: there is no checkpoint to go on from."""

    def step(self, images: int, loss: Tensor) -> None:
        """Judge, every so many steps."""
        self._steps += 1
        if self._steps % JUDGE_EVERY:
            return
        loss.item()  # waits for the device: the clock may be read now
        stopped = time.perf_counter()
        right = int(evaluate(self._network, self._test).right().sum())
        self.curve.append((stopped - self._started - self._paused, right / len(self._test)))
        pause = time.perf_counter() - stopped
        self._paused += pause
        self._paused_in_epoch += pause
        self._end_if_reached()

    def epoch(self, epoch: Epoch) -> None:
        """Keep the epoch's rate, without the pauses."""
        images = epoch.images_per_second * epoch.seconds
        self.rates.append(images / (epoch.seconds - self._paused_in_epoch))
        self._paused_in_epoch = 0.0
        self._end_if_reached()

    def _end_if_reached(self) -> None:
        if self.rates and reached(self.curve, self._target) is not None:
            raise Reached


def multiplications(device: torch.device, precision: torch.dtype) -> float:
    """Floating-point operations a second in matrix multiplication, the best of several."""
    best = 0.0
    for side in SIDES_ON_GPU if device.type == "cuda" else SIDES:
        left, right = torch.rand(2, side, side, device=device).to(precision)
        product = torch.mm(left, right)
        for _ in range(5):
            product[0, 0].item()  # waits for the device
            started = time.perf_counter()
            torch.mm(left, right, out=product)
            product[0, 0].item()
            best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def operations(recipe: Recipe, batch_size: int) -> float:
    """Floating-point operations of a training step, forward and backward, for each of its images."""
    network = build(recipe.network)
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(batch_size, 1, 28, 28))
        functional.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.int64)).backward()
    return counter.get_total_flops() / batch_size


def main() -> None:
    """Train a network for each seed that is read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw/")
    parser.add_argument("--recipe", type=find, default="default", help="a recipe's name, or a TOML file")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--target", type=float, default=0.992, help="share of the test digits")
    parser.add_argument("--limit", type=int, help="take the first N digits only")
    arguments = parser.parse_args()

    full = data.load("full", arguments.data, Path())
    digits, validation, test = (
        Digits(part.images[: arguments.limit], part.labels[: arguments.limit])
        for part in (full.train, full.validation, full.read_test())
    )
    recipe, device = arguments.recipe, choose_device(arguments.device)
    test = test.to(device)
    batch_size = recipe.batch_size if device.type == "cpu" else recipe.batch_size_on_gpu
    operations_per_image = operations(recipe, batch_size)
    precision = choose_precision(device, recipe.mixed_precision)
    kind = str(precision).removeprefix("torch.")
    about = f"torch {torch.__version__}, {describe_device(device)}, {kind}, batches of {batch_size}"
    print(json.dumps({"about": about, "device": device.type, "precision": kind}), flush=True)
    for seed in map(int, sys.stdin):
        rate = multiplications(device, precision)
        judge = Judge(test, arguments.target)
        with suppress(Reached):
            train(recipe, recipe.epochs, digits, validation, device, seed, [judge], watch=judge.watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB; macOS alone counts in bytes
        done = {
            "curve": judge.curve,
            "rates": judge.rates,
            "operations_per_image": operations_per_image,
            "operations_per_second": max(rate, multiplications(device, precision)),
            "peak_memory": peak * (1 if sys.platform == "darwin" else 1024),
        }
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
