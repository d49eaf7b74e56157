"""The command line of a benchmark: `--help` from the module's docstring, and the exit code."""

import argparse
import sys
from collections.abc import Callable

from benchmarks.harness.processes import BenchmarkError


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m MODULE` that prints the description as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_code(benchmark: Callable[[], None]) -> int:
    """Run a benchmark. Returns 0, 1 after a BenchmarkError (printed as one sentence), or 130 after Ctrl-C."""
    try:
        benchmark()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
