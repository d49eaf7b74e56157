"""Time a comparison on a cluster of this machine's cores against the loop: `python -m benchmarks.training.sweep`.

How it is measured: the same runs, one recipe with several seeds, in three ways, each in a new state folder and in
turn, so that a round compares neighbours in time: the loop of `compare`, with all cores for each run; Ray with a core
for each run; and Ray with all cores for each run, one after another, which shows what Ray itself costs. Each command
is timed from its start to its end. The time from one run to the next is the median difference of their starts in
MLflow, without the first runs of a process, which load libraries.

Needs the packages of requirements/cluster.txt, and idle cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from benchmarks.harness import command_line
from benchmarks.harness.processes import ROOT, BenchmarkError
from benchmarks.harness.tables import markdown, spread

CORES = os.cpu_count() or 1
LOOP = "loop"
WAYS = {
    LOOP: [],
    "Ray, a core for each run": ["--cluster", "local", "--cpus-per-run", "1"],
    "Ray, one run after another": ["--cluster", "local", "--cpus-per-run", str(CORES)],
}


@dataclass(frozen=True)
class Sweep:
    """One comparison: seconds from its start to its end, and the starts of its runs in seconds, in order."""

    seconds: float
    starts: Sequence[float]

    @property
    def between(self) -> float:
        """Median seconds from one run to the next, without the first runs of the processes."""
        steps = [later - earlier for earlier, later in zip(self.starts, self.starts[1:], strict=False)]
        return statistics.median(steps[1:])


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = command_line.make_parser("benchmarks.training.sweep", __doc__)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--subset", default="tenth")
    parser.add_argument("--runs", type=int, default=8, help="seeds of the recipe")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    return command_line.exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a Markdown table."""
    measured: dict[str, list[Sweep]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, options in WAYS.items():
            measured[way].append(_sweep(options, arguments))
            print(f"{way}: {measured[way][-1].seconds:.1f} s", file=sys.stderr)
    print(table(measured))


def table(measured: dict[str, list[Sweep]]) -> str:
    """A Markdown table; sweeps with the same number are neighbours in time."""
    rows = []
    for way, sweeps in measured.items():
        ratios = [loop.seconds / sweep.seconds for loop, sweep in zip(measured[LOOP], sweeps, strict=True)]
        seconds = spread([sweep.seconds for sweep in sweeps], ".1f")
        rows.append([way, seconds, spread(ratios, ".2f"), spread([sweep.between for sweep in sweeps], ".2f")])
    return markdown(["way", "seconds", "times as fast", "seconds from one run to the next"], rows)


def _sweep(options: Sequence[str], arguments: argparse.Namespace) -> Sweep:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline", "compare", "--recipes", arguments.recipe, *options]
        command += ["--subset", arguments.subset, "--seeds", str(arguments.runs), "--state-dir", folder]
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("PIPELINE_", "MLFLOW_"))}
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise BenchmarkError(f"The comparison ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        return Sweep(seconds, _starts(Path(folder)))


def _starts(state: Path) -> list[float]:
    client = MlflowClient(f"sqlite:///{state / 'mlflow.db'}")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return sorted(run.info.start_time / 1000 for run in runs if MLFLOW_PARENT_RUN_ID in run.data.tags)


if __name__ == "__main__":
    raise SystemExit(main())
