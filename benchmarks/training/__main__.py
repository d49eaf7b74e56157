"""The chapter's training loop against ours, on this machine: `python -m benchmarks.training [--keras]`.

Each competitor is a process of its own that works only in its turn. In each of five rounds the chapter's loop
(chapter.py) trains one more epoch, a new network is trained by our recipe (timed_run.py, the round
is its seed) until it has reached 99.2 % on test, and, with --keras, the chapter's Keras version
(keras_chapter.py) trains one more epoch. So each ratio is one of neighbouring times, and after five rounds
the chapter's networks have had their five epochs.

A ratio of a round is: epochs that the other network needed, times its epoch's seconds in this round, divided by our
seconds in this round. Every network is judged with the clock stopped: theirs after each epoch, ours every 50 steps,
where only the second of two judgements in a row at or above the target counts. Prints a line for each piece that is
done, then a Markdown table: medians over the rounds, and the ratios with their smallest and largest.

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

from benchmarks.harness.processes import ROOT, BenchmarkError, Competitor, python_with
from benchmarks.harness.ratios import Comparison, epochs_needed, reached, spread

ROUNDS = 5  # as many as the chapter has epochs
CHAPTER_TARGET, KERAS_TARGET = 0.992, 0.99  # shares of the test digits
TIME_BAR, KERAS_TIME_BAR, RATE_BAR, MEMORY_BAR = 10, 4, 3, 1.2e9
FILES = [f"{part}-ubyte" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")]


def main() -> int:
    """Let them compete, and print; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, ROUNDS + 1),
        default=ROUNDS,
        help="fewer for a quick trial; the chapter's networks then have fewer epochs",
    )
    parser.add_argument("--keras", action="store_true", help="with the chapter's Keras version, on TensorFlow")
    parser.add_argument("--recipe", default="default", help="what we train: a name, or a TOML file")
    parser.add_argument("--device", default="auto", help="for both loops: auto, cuda or cpu; Keras is on the CPU")
    parser.add_argument("--limit", type=int, help="only the first N digits, to try the benchmark itself")
    arguments = parser.parse_args()
    try:
        compete(arguments)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def compete(arguments: argparse.Namespace) -> None:
    """Run the rounds and print the table."""
    common = ["--data", str(find_data())] + (["--limit", str(arguments.limit)] if arguments.limit else [])
    recipe = str(Path(arguments.recipe).resolve()) if arguments.recipe.endswith(".toml") else arguments.recipe
    ours_command = ["benchmarks.training.timed_run", *common, "--recipe", recipe, "--device", arguments.device]
    with ExitStack() as stack:

        def start(name: str, *command: str) -> Competitor:
            competitor = stack.enter_context(Competitor(name, command))
            print(f"{name}: {competitor.introduce()['about']}", flush=True)
            return competitor

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
            for competitor in (chapter, ours, *others[1:]):
                piece = f"round {number} of {arguments.rounds}: {competitor.name}"
                if competitor is ours:
                    mine.append(ours.turn(number))
                    print(f"{piece}, {describe(mine[-1])}", flush=True)
                else:
                    done = competitor.turn()
                    theirs[competitor.name].append(done)
                    print(
                        f"{piece}, epoch {done['epoch']}: {done['seconds']:.1f} s, "
                        f"{done['images_per_second']:,.0f} images/s, {100 * done['test_accuracy']:.2f} % on test",
                        flush=True,
                    )
    limited = f", the first {arguments.limit} digits only" if arguments.limit else ""
    print(f"\n{ours.name}, {ours.about['about']}; {arguments.rounds} round(s){limited}\n")
    for other, target, bar in zip(others, (CHAPTER_TARGET, KERAS_TARGET), (TIME_BAR, KERAS_TIME_BAR), strict=False):
        print(f"| against {other.name} | theirs | ours | ratio, median (min-max) | bar |")
        print("|---|---|---|---|---|")
        rows = times(theirs[other.name], mine, target, bar)
        rows.append(rates(theirs[other.name], mine, RATE_BAR if other is chapter else None))
        print("\n".join(row.row() for row in rows), end="\n\n")
    print(resources(mine, ours.about["precision"]))


def times(theirs: Sequence[Any], mine: Sequence[Any], target: float, bar: float) -> list[Comparison]:
    """Seconds to the target; and to their own best, where that is below it."""
    accuracies = [epoch["test_accuracy"] for epoch in theirs]
    best = max(accuracies)
    wanted = [(target, f"s to {100 * target:.1f} % on test", bar)]
    if best < target:
        wanted.append((best, f"s to their best, {100 * best:.2f} % on test", None))
    found = []
    for accuracy, what, of in wanted:
        needed = epochs_needed(accuracies, accuracy)
        seconds = [(needed or len(theirs)) * epoch["seconds"] for epoch in theirs]
        our_seconds = [reached(training["curve"], accuracy) or math.inf for training in mine]
        whose = f"their epoch {needed}" if needed else f"not reached by their epoch {len(theirs)}"
        found.append(Comparison(f"{what} ({whose})", seconds, our_seconds, of, at_least=needed is None))
    return found


def rates(theirs: Sequence[Any], mine: Sequence[Any], bar: float | None) -> Comparison:
    """Images a second over whole epochs."""
    ours = [statistics.mean(training["rates"]) for training in mine]
    return Comparison("images/s in an epoch", [epoch["images_per_second"] for epoch in theirs], ours, bar, True)


def resources(mine: Sequence[Any], precision: str) -> str:
    """What share of the machine's rate our training reaches, and the memory that it takes, as Markdown."""
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
    """One of our trainings in words."""
    seconds = reached(training["curve"], CHAPTER_TARGET)
    end = f"{seconds:.1f} s to" if seconds else "did not reach"
    best = max((accuracy for _, accuracy in training["curve"]), default=0.0)
    rate = statistics.mean(training["rates"])
    return f"{end} {100 * CHAPTER_TARGET:.1f} % on test (best {100 * best:.2f} %), {rate:,.0f} images/s"


def find_data() -> Path:
    """The folder of MNIST_DIR.

    Raises:
        BenchmarkError: it is not set, or does not hold the files.
    """
    what = "the folder that holds MNIST/raw/ with MNIST's four files, unpacked"
    if not os.environ.get("MNIST_DIR"):
        raise BenchmarkError(f"Set MNIST_DIR to {what}: export MNIST_DIR=/path/to/data")
    folder = Path(os.environ["MNIST_DIR"]).resolve()
    for file in FILES:
        if not (folder / "MNIST" / "raw" / file).is_file():
            raise BenchmarkError(f"MNIST_DIR={folder} lacks MNIST/raw/{file}: set it to {what}.")
    return folder


if __name__ == "__main__":
    sys.exit(main())
