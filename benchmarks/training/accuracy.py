"""Accuracy and training time over seeds: `python -m benchmarks.training.accuracy --recipe default --seeds 3`.

How it is measured: the pipeline's own loop trains each network on the full MNIST of MNIST_DIR or on the bundled tenth.
After the last epoch, the network is evaluated once on all 10,000 test digits of the full set. Prints a line for each
run, then a Markdown table.

With --held-out, for choosing between recipes, the test digits are not used. 10,000 training digits are held out, and
networks are evaluated on them and on the validation digits.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # the command line's setting; must precede the import of torch
import torch

from pipeline.data import mnist as data
from pipeline.data.dataset import DataSet, Samples
from pipeline.evaluation import evaluate, fit_temperature
from pipeline.networks import count_parameters
from pipeline.recipes import find
from pipeline.training.devices import choose_device, describe_device
from pipeline.training.loop import train
from pipeline.training.run import Run

HELD_OUT = 10_000


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["default"], help="names of recipes, or TOML files")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N")
    parser.add_argument("--data", choices=["full", "tenth"], default="full")
    parser.add_argument(
        "--held-out", action="store_true", help="evaluate on held-out digits instead of the test digits"
    )
    arguments = parser.parse_args()

    full = data.load("full", Path(os.environ["MNIST_DIR"]), Path())
    dataset = full if arguments.data == "full" else data.load("tenth", None, Path())
    device = choose_device("auto")
    print(f"torch {torch.__version__}, {describe_device(device)}, {arguments.data} MNIST, seeds 1-{arguments.seeds}")
    if arguments.held_out:
        hold_out(arguments.recipe, arguments.seeds, full, device)
        return
    rows = []
    for name in arguments.recipe:
        recipe = find(name)
        validation, test, seconds, calibration = [], [], [], []
        for seed in range(1, arguments.seeds + 1):
            started = time.perf_counter()
            run = Run(recipe, seed, dataset, device)
            network = train(run).network
            seconds.append(time.perf_counter() - started)
            on_validation = evaluate(network, dataset.validation)
            on_test = evaluate(network, full.read_test())
            validation.append(100 * on_validation.accuracy())
            test.append(100 * on_test.accuracy())
            calibration.append((on_test.calibration_error(), on_test.calibration_error(fit_temperature(on_validation))))
            print(
                f"{name}, seed {seed}: validation {validation[-1]:.2f} %, test {test[-1]:.2f} %, {seconds[-1]:.0f} s, "
                f"calibration error {calibration[-1][0]:.4f}, with temperature {calibration[-1][1]:.4f}",
                flush=True,
            )
        rows.append(
            f"| `{name}` | {count_parameters(network):,} | {run.epochs} | {spread(validation)} | {spread(test)} | "
            f"{statistics.mean(seconds):.0f} | {statistics.mean(after for _, after in calibration):.4f} |"
        )
    print("\n| recipe | parameters | epochs | validation % | test % | seconds | calibration error |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def hold_out(names: list[str], seeds: int, full: DataSet, device: torch.device) -> None:
    """Train without the held-out digits; print accuracy and loss in nats on them."""
    dataset = replace(full, train=full.train[:-HELD_OUT])
    held_out = Samples(
        torch.cat([full.validation.images, full.train.images[-HELD_OUT:]]),
        torch.cat([full.validation.labels, full.train.labels[-HELD_OUT:]]),
    )
    print(f"| recipe | epochs | accuracy on {len(held_out):,} held-out digits, % | loss at the best temperature |")
    print("|---|---|---|---|", flush=True)
    for name in names:
        recipe = find(name)
        evaluations = [
            evaluate(train(Run(recipe, seed, dataset, device)).network, held_out) for seed in range(1, seeds + 1)
        ]
        right = spread([100 * one.accuracy() for one in evaluations])
        loss = statistics.mean(one.loss(fit_temperature(one)) for one in evaluations)
        print(f"| `{recipe.name}` | {recipe.epochs} | {right} | {loss:.4f} |", flush=True)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


if __name__ == "__main__":
    main()
