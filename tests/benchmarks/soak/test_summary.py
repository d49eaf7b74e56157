"""The targets of the soak, each reached and missed."""

from typing import Any

import pytest

from benchmarks.soak import summary

SOAK = {
    "due": 1000, "unsent": 0, "lost": 0, "errors": 0, "statuses": {"200": 1000}, "p50": 1.0, "p99": 5.0,
    "kinds": {"a": {"n": 1000, "p50": 1.0, "p99": 5.0, "max": 9.0}}, "shares": {"a": 1.0},
}  # fmt: skip


def results(**changes: Any) -> dict[str, Any]:
    flat = [(float(second), 300_000_000) for second in range(0, 1800, 5)]
    return {
        "capacity": 1000.0, "capacities": [1200.0, 1000.0], "share": 0.8, "minutes": 30, "misbehaved": {"slow": 3},
        "soak": SOAK,
        "overload": {**SOAK, "statuses": {"200": 900, "503": 100}}, "overload_factor": 5, "overload_seconds": 60,
        "memory": flat, "memory_at_rest": 250_000_000, "memory_after": 310_000_000,
        "alone": [0.5, 0.5], "recovery": [9.0, 2.0, 1.0, 0.6, 0.6], **changes,
    }  # fmt: skip


def missed(measured: dict[str, Any]) -> list[str]:
    return [line for line in summary.write(measured).splitlines() if "**Missed**" in line]


def test_all_targets_reached() -> None:
    assert missed(results()) == []
    assert "| a | 100.0% | 1,000 | 1.0 | 5.0 | 9.0 |" in summary.write(results())
    lowest = "1,000 requests/s, the lowest of 2 measurements (up to 1,200). Then 800 requests/s"
    assert lowest in summary.write(results())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"soak": {**SOAK, "errors": 1}}, "1 errors"),
        ({"soak": {**SOAK, "unsent": 2}}, "2 errors"),
        ({"overload": {**SOAK, "lost": 1}}, "1 sent without an answer"),
        ({"overload": {**SOAK, "statuses": {"200": 1, "500": 3}}}, "3 other statuses"),
        ({"recovery": [0.5, 0.5, 0.5, 0.5, 0.9]}, "0.90 ms 5 s after"),
        ({"recovery": [0.5, None, None, None, None]}, "inf ms 5 s after"),
        ({"memory": [(float(t), 300_000_000 + (16_000_000 if t > 1700 else 0)) for t in range(0, 1800, 5)]}, "+5.3%"),
    ],
)
def test_each_target_can_be_missed(changes: dict[str, Any], reason: str) -> None:
    (line,) = missed(results(**changes))
    assert reason in line


def test_memory_may_grow_in_the_first_five_minutes() -> None:
    growing = [(float(t), 200_000_000 + min(t, 290) * 100_000) for t in range(0, 1800, 5)]
    assert missed(results(memory=growing)) == []


def test_short_load_tells_nothing_about_memory() -> None:
    assert "too short" in summary.write(results(memory=[(0.0, 1), (5.0, 2)]))
