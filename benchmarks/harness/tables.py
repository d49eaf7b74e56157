"""Markdown tables of measurements."""

import statistics
from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; each row has one cell for each column of the header."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def spread(values: Sequence[float], form: str) -> str:
    """Format `values` as median (smallest-largest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"
