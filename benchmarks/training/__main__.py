"""Our recipe trains several times faster than the chapter's loop: `python -m benchmarks.training [--keras]`.

How it is measured: each contender is a process of its own, and they work in turns. In each of five rounds, the
chapter's loop (chapter.py) trains one more epoch, our recipe (timed_run.py; the round is the seed) trains a new network
to 99.2 % on test, and with --keras the chapter's Keras version (keras_chapter.py) trains one more epoch. So the two
numbers of a ratio are neighbours in time, and after five rounds the chapter's networks have had their five epochs.

The ratio of a round is the number of epochs that the chapter's network needed, times the seconds of its epoch in this
round, divided by our seconds in this round. The clock stops while a network is evaluated: theirs after each epoch,
ours every 50 steps. Ours must reach the target in two consecutive evaluations, and the time of the second counts.
Prints a line for each epoch and training, then Markdown tables: medians over the rounds, and the spread of the ratios.

Needs the full MNIST in MNIST_DIR. --keras installs TensorFlow into .venv-tensorflow once.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import command_line
from benchmarks.harness.processes import ROOT, BenchmarkError, JsonProcess, python_with
from benchmarks.harness.tables import markdown, spread
from benchmarks.training.speedup import HEADER, Speedup, epochs_needed, reached

ROUNDS = 5  # the chapter's number of epochs
CHAPTER_TARGET, KERAS_TARGET = 0.992, 0.99  # accuracies on test, shares
TIME_BAR, KERAS_TIME_BAR, RATE_BAR, MEMORY_BAR = 10, 4, 3, 1.2e9
FILES = [f"{part}-ubyte" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")]


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = command_line.make_parser("benchmarks.training", __doc__)
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, ROUNDS + 1),
        default=ROUNDS,
        help="fewer for a quick trial; the chapter's networks then train for fewer epochs",
    )
    parser.add_argument("--keras", action="store_true", help="include the chapter's Keras version, on TensorFlow")
    parser.add_argument("--recipe", default="default", help="our recipe: a name, or a TOML file")
    parser.add_argument("--device", default="auto", help="for both loops: auto, cuda or cpu; Keras uses the CPU")
    parser.add_argument("--limit", type=int, help="use only the first N digits, to test the benchmark itself")
    arguments = parser.parse_args()
    return command_line.exit_code(lambda: compete(arguments))


def compete(arguments: argparse.Namespace) -> None:
    """Run the rounds and print the table."""
    common = ["--data", str(find_data())] + (["--limit", str(arguments.limit)] if arguments.limit else [])
    recipe = str(Path(arguments.recipe).resolve()) if arguments.recipe.endswith(".toml") else arguments.recipe
    ours_command = ["benchmarks.training.timed_run", *common, "--recipe", recipe, "--device", arguments.device]
    with ExitStack() as stack:

        def start(name: str, *command: str) -> JsonProcess:
            process = stack.enter_context(JsonProcess(name, command))
            print(f"{name}: {process.wait_until_ready()['about']}", flush=True)
            return process

        ours = start(f"`{arguments.recipe}`", sys.executable, "-m", *ours_command, "--target", str(CHAPTER_TARGET))
        device = ours.about["device"]
        chapter = start(
            "the chapter's loop", sys.executable, "-m", "benchmarks.training.chapter", *common, "--device", device
        )
        others = [chapter]
        if arguments.keras:
            script = str(ROOT / "benchmarks" / "training" / "keras_chapter.py")
            others.append(start("the chapter's Keras version", str(python_with("tensorflow")), script, *common))

        theirs: dict[str, list[Any]] = {other.name: [] for other in others}
        mine: list[Any] = []
        for number in range(1, arguments.rounds + 1):
            for contender in (chapter, ours, *others[1:]):
                piece = f"round {number} of {arguments.rounds}: {contender.name}"
                if contender is ours:
                    mine.append(ours.work(number))
                    print(f"{piece}, {describe(mine[-1])}", flush=True)
                else:
                    done = contender.work()
                    theirs[contender.name].append(done)
                    print(
                        f"{piece}, epoch {done['epoch']}: {done['seconds']:.1f} s, "
                        f"{done['images_per_second']:,.0f} images/s, {100 * done['test_accuracy']:.2f} % on test",
                        flush=True,
                    )
    limited = f", the first {arguments.limit} digits only" if arguments.limit else ""
    print(f"\n{ours.name}, {ours.about['about']}; {arguments.rounds} round(s){limited}\n")
    for other, target, bar in zip(others, (CHAPTER_TARGET, KERAS_TARGET), (TIME_BAR, KERAS_TIME_BAR), strict=False):
        speedups = times(theirs[other.name], mine, target, bar)
        speedups.append(rates(theirs[other.name], mine, RATE_BAR if other is chapter else None))
        rows = (speedup.row() for speedup in speedups)
        print(markdown((f"against {other.name}", *HEADER), rows), end="\n\n")
    print(resources(mine, ours.about["precision"]))


def times(theirs: Sequence[Any], mine: Sequence[Any], target: float, bar: float) -> list[Speedup]:
    """Seconds to the target; and to their own best accuracy if they missed the target."""
    accuracies = [epoch["test_accuracy"] for epoch in theirs]
    best = max(accuracies)
    targets: list[tuple[float, str, float | None]] = [(target, f"s to {100 * target:.1f} % on test", bar)]
    if best < target:
        targets.append((best, f"s to their best, {100 * best:.2f} % on test", None))
    found = []
    for accuracy, what, bar_of in targets:
        needed = epochs_needed(accuracies, accuracy)
        seconds = [(needed or len(theirs)) * epoch["seconds"] for epoch in theirs]
        our_seconds = [reached(training["curve"], accuracy) or math.inf for training in mine]
        whose = f"their epoch {needed}" if needed else f"not reached by their epoch {len(theirs)}"
        found.append(Speedup(f"{what} ({whose})", seconds, our_seconds, bar_of, at_least=needed is None))
    return found


def rates(theirs: Sequence[Any], mine: Sequence[Any], bar: float | None) -> Speedup:
    """Images per second over whole epochs."""
    ours = [statistics.mean(training["rates"]) for training in mine]
    return Speedup("images/s in an epoch", [epoch["images_per_second"] for epoch in theirs], ours, bar, True)


def resources(mine: Sequence[Any], precision: str) -> str:
    """Our share of the machine's arithmetic rate, and our peak memory, as Markdown."""
    share = [
        100 * statistics.mean(done["rates"]) * done["operations_per_image"] / done["operations_per_second"]
        for done in mine
    ]
    fastest = spread([done["operations_per_second"] / 1e9 for done in mine], ",.0f")
    peak = max(done["peak_memory"] for done in mine)
    return (
        f"- Training reaches {spread(share, '.1f')} % of the rate of {precision} matrix multiplication, {fastest} "
        f"GFLOP/s here; an image takes {mine[0]['operations_per_image'] / 1e6:.1f} MFLOP, forward and backward.\n"
        f"- Peak memory: {peak / 1e9:.2f} GB (bar {MEMORY_BAR / 1e9:g}: "
        f"{'reached' if peak <= MEMORY_BAR else 'missed'})."
    )


def describe(training: Any) -> str:
    """Progress line of one of our trainings."""
    seconds = reached(training["curve"], CHAPTER_TARGET)
    end = f"{seconds:.1f} s to" if seconds else "did not reach"
    best = max((accuracy for _, accuracy in training["curve"]), default=0.0)
    rate = statistics.mean(training["rates"])
    return f"{end} {100 * CHAPTER_TARGET:.1f} % on test (best {100 * best:.2f} %), {rate:,.0f} images/s"


def find_data() -> Path:
    """The folder named by MNIST_DIR.

    Raises:
        BenchmarkError: the variable is not set, or a file is missing.
    """
    what = "the folder that holds MNIST/raw/ with MNIST's four files, unpacked"
    if not os.environ.get("MNIST_DIR"):
        raise BenchmarkError(f"Set MNIST_DIR to {what}: export MNIST_DIR=/path/to/data")
    folder = Path(os.environ["MNIST_DIR"]).resolve()
    for file in FILES:
        if not (folder / "MNIST" / "raw" / file).is_file():
            raise BenchmarkError(f"MNIST_DIR={folder} does not hold MNIST/raw/{file}: set it to {what}.")
    return folder


if __name__ == "__main__":
    sys.exit(main())
