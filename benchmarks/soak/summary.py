"""The soak's measurements as Markdown, and its targets."""

import math
import statistics
from typing import Any

from benchmarks.harness.tables import markdown
from benchmarks.soak.client import CONNECTIONS

SETTLED_SECONDS = 300  # memory may grow until then
GROWTH = 0.05  # above the first settled minute
RECOVERED_SECONDS = 5
RECOVERED = 1.5  # times the lone client's median before the load


def write(results: dict[str, Any]) -> str:
    """A table of the mix, then each target as reached or missed."""
    soak, overload = results["soak"], results["overload"]
    rows = [
        [name, f"{soak['shares'][name]:.1%}", f"{of['n']:,}", *(f"{of[key]:.1f}" for key in ("p50", "p99", "max"))]
        for name, of in soak["kinds"].items()
    ]
    table = markdown(["request", "share", "answers", "p50, ms", "p99, ms", "longest, ms"], rows)
    begun = ", ".join(f"{number} {name}" for name, number in results["misbehaved"].items())
    rate = results["share"] * results["capacity"]
    lines = [
        f"Capacity for the mix: {results['capacity']:,.0f} requests/s, the lowest of {len(results['capacities'])} "
        f"measurements (up to {max(results['capacities']):,.0f}). Then {rate:,.0f} requests/s for "
        f"{results['minutes']:g} minutes, together with clients that misbehave: {begun}.",
        "",
        table,
        "",
        *(f"- {line}" for line in _targets(results, soak, overload)),
    ]
    return "\n".join(lines)


def _targets(results: dict[str, Any], soak: dict[str, Any], overload: dict[str, Any]) -> list[str]:
    lines = [
        _line(
            soak["errors"] + soak["unsent"] == 0,
            f"{soak['errors'] + soak['unsent']} errors among {soak['due']:,} requests (target: none)",
        ),
        f"p50 {soak['p50']:.1f} ms, p99 {soak['p99']:.1f} ms of all requests.",
        _memory(results["memory"], results["memory_at_rest"], results["memory_after"]),
    ]
    allowed = {"200", "503"}
    others = {status: n for status, n in overload["statuses"].items() if status not in allowed}
    counted = f"{overload['statuses'].get('200', 0):,} answers, {overload['statuses'].get('503', 0):,} times 503"
    lines.append(
        _line(
            not others and overload["lost"] == 0,
            f"{results['overload_factor']:g} times the capacity for {results['overload_seconds']:g} s: {counted}, "
            f"{overload['lost']} sent without an answer, {sum(others.values())} other statuses (target: none of both); "
            f"{overload['unsent']:,} never sent, because all {CONNECTIONS:,} connections waited",
        )
    )
    before = statistics.median(value for value in results["alone"] if value is not None)
    recovery = [math.inf if value is None else value for value in results["recovery"]]
    last = recovery[RECOVERED_SECONDS - 1] if len(recovery) >= RECOVERED_SECONDS else math.inf
    lines.append(
        _line(
            last <= RECOVERED * before,
            f"a lone client's p50 is {last:.2f} ms {RECOVERED_SECONDS} s after the overload, {before:.2f} ms before "
            f"(target: at most {RECOVERED:g} times)",
        )
    )
    return lines


def _memory(samples: list[list[float]], at_rest: int, after: int) -> str:
    minutes: dict[int, list[float]] = {}
    for seconds, size in samples:
        minutes.setdefault(int(seconds // 60), []).append(size)
    settled = [statistics.mean(minutes[minute]) for minute in sorted(minutes) if 60 * minute >= SETTLED_SECONDS]
    told = f"memory {at_rest / 1e6:.0f} MB at rest, {after / 1e6:.0f} MB after the overload"
    if not settled:
        return f"{told}; too short a load to tell whether it grows."
    growth = max(settled) / settled[0] - 1
    return _line(
        growth <= GROWTH,
        f"{told}; after five minutes {settled[0] / 1e6:.0f} MB, the largest minute mean after that is {growth:+.1%} "
        f"(target: at most {GROWTH:+.0%})",
    )


def _line(reached: bool, text: str) -> str:
    return f"{'Reached' if reached else '**Missed**'}: {text}."
