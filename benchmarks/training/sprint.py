"""A GPU trains a network to 99 % on test in a quarter of a second: `python -m benchmarks.training.sprint --runs 30`.

How it is measured: the digits are already on the device. The clock starts when `train` is called, so building the
network, its first steps and recording them as a CUDA graph are included. The clock stops while the test digits are
evaluated, every --every steps; the first evaluation at or above the target ends a run. A warm-up run, which loads the
libraries, does not count. Prints a line for each run, then mean and standard deviation.
"""

import argparse
import os
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.training.judge import Judge, Reached
from pipeline.data import mnist
from pipeline.data.dataset import DataSet, Samples
from pipeline.recipes import Recipe, find
from pipeline.training.devices import choose_device, describe_device
from pipeline.training.loop import train
from pipeline.training.run import Run


def sprint(recipe: Recipe, dataset: DataSet, test: Samples, seed: int, target: float, every: int) -> Judge | None:
    """One training; None if it ends below the target."""
    judge = Judge(test, every, lambda judge: bool(judge.curve) and judge.curve[-1][1] >= target)
    try:
        train(Run(recipe, seed, dataset, test.labels.device), [judge])
    except Reached:
        return judge
    return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="default", help="name of a recipe, or a TOML file")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--target", type=float, default=0.99, help="accuracy on the test digits, a share")
    parser.add_argument("--every", type=int, default=20, help="steps between two evaluations of the test digits")
    arguments = parser.parse_args()

    device = choose_device("auto")
    recipe = find(arguments.recipe)
    full = mnist.load("full", Path(os.environ["MNIST_DIR"]), Path())
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
        seconds.append(run.curve[-1][0])
        print(f"seed {seed}: {seconds[-1]:.3f} s, {run.images:,} images", flush=True)
    if len(seconds) > 1:
        print(
            f"{arguments.target:.1%} on test reached in {len(seconds)} of {arguments.runs} runs: "
            f"{statistics.mean(seconds):.3f} ± {statistics.stdev(seconds):.3f} s, at most {max(seconds):.3f} s"
        )


if __name__ == "__main__":
    main()
