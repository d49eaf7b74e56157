"""Our side of `benchmarks.training`: `python -m benchmarks.training.timed_run --data FOLDER` times whole trainings.

Each line on its standard input is a seed. The pipeline's own loop trains a network until it reaches the target accuracy
on the test digits, but for at least one whole epoch; the measurements are printed as one line of JSON.

Every 50 steps the clock stops and the network with the averaged weights is evaluated on all test digits. The clock
starts when `train` is called and includes evaluation on the validation digits after each epoch.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # the command line's setting; must precede the import of torch
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.judge import Judge, Reached
from benchmarks.training.speedup import reached
from pipeline.data import mnist
from pipeline.data.dataset import MNIST
from pipeline.networks import build
from pipeline.recipes import Recipe, find
from pipeline.training.devices import choose_device, describe_device
from pipeline.training.loop import train
from pipeline.training.run import Run

JUDGE_EVERY = 50  # steps
SIDES = (1024, 2048)  # square matrices whose multiplication measures the rate of the machine
SIDES_ON_GPU = (4096, 8192)


def multiplications(device: torch.device, precision: torch.dtype) -> float:
    """Floating-point operations per second in matrix multiplication: the best of several."""
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
    """Floating-point operations per image of a training step, forward and backward."""
    network = build(recipe.network, MNIST)
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(batch_size, 1, 28, 28))
        functional.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.int64)).backward()
    return float(counter.get_total_flops()) / batch_size


def finished_at(target: float) -> Callable[[Judge], bool]:
    """End training when the target is confirmed and at least one epoch is complete."""
    return lambda judge: bool(judge.rates) and reached(judge.curve, target) is not None


def main() -> None:
    """Train a network for each seed on standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw/")
    parser.add_argument("--recipe", type=find, default="default", help="name of a recipe, or a TOML file")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--target", type=float, default=0.992, help="accuracy on the test digits, a share")
    parser.add_argument("--limit", type=int, help="use only the first N digits")
    arguments = parser.parse_args()

    full = mnist.load("full", arguments.data, Path())
    part = slice(arguments.limit)
    dataset = replace(full, train=full.train[part], validation=full.validation[part])
    device = choose_device(arguments.device)
    test = full.read_test()[part].to(device)
    run = Run(arguments.recipe, 1, dataset, device)
    batch_size, precision = run.batch_size, run.precision
    operations_per_image = operations(run.recipe, batch_size)
    kind = str(precision).removeprefix("torch.")
    about = f"torch {torch.__version__}, {describe_device(device)}, {kind}, batches of {batch_size}"
    print(json.dumps({"about": about, "device": device.type, "precision": kind}), flush=True)
    for seed in map(int, sys.stdin):
        rate = multiplications(device, precision)
        judge = Judge(test, JUDGE_EVERY, finished_at(arguments.target))
        with suppress(Reached):
            train(replace(run, seed=seed), [judge])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
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
