"""What it costs that OpenMP's threads wait for each other: `python -m benchmarks.studies.waiting`.

Trains two recipes on the bundled tenth for a few epochs with several values of GOMP_SPINCOUNT (how often a waiting
thread looks before it gives up the core), on the machine as it is and beside one busy process, all of them in turn in
each round. Prints images/s, medians over the rounds, as a Markdown table. Needs two cores that are otherwise idle.
"""

import os
import statistics
import subprocess
import sys
from collections import defaultdict

ROUNDS, EPOCHS = 2, 2
SPIN_COUNTS = ("library's default", "300", "3000", "30000")
TRAIN = """
import sys, torch
from pathlib import Path
from pipeline import recipes
from pipeline.data import mnist as data
from pipeline.training import loop as training

class Rates:
    def resume(self, epochs, images): pass
    def step(self, images, loss): pass
    def epoch(self, epoch): print(epoch.images_per_second)

tenth = data.load("tenth", None, Path())
recipe, epochs = recipes.find(sys.argv[1]), int(sys.argv[2])
training.train(recipe, epochs, tenth.train, tenth.validation, torch.device("cpu"), 1, [Rates()])
"""


def rate(recipe: str, spin_count: str) -> float:
    """Images a second in the fastest epoch of a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spin_count.isdigit():
        environment["GOMP_SPINCOUNT"] = spin_count
    command = [sys.executable, "-c", TRAIN, recipe, str(EPOCHS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return max(float(line) for line in done.stdout.split())


def main() -> None:
    """Measure and print."""
    rates: dict[tuple[str, bool, str], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for busy in (False, True):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                for recipe in ("default", "dense"):
                    for spin_count in SPIN_COUNTS:
                        rates[recipe, busy, spin_count].append(rate(recipe, spin_count))
            finally:
                if neighbour:
                    neighbour.kill()
                    neighbour.wait()
    print("| GOMP_SPINCOUNT | `default` | `dense` | `default`, busy neighbour | `dense`, busy neighbour |")
    print("|---|---|---|---|---|")
    for spin_count in SPIN_COUNTS:
        columns = [(recipe, busy) for busy in (False, True) for recipe in ("default", "dense")]
        print(f"| {spin_count} |", *(f"{statistics.median(rates[*column, spin_count]):,.0f} |" for column in columns))


if __name__ == "__main__":
    main()
