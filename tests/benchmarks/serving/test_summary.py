"""Ratios, tables, targets and the picture of the comparison of servers."""

import math
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.harness.load import Load
from benchmarks.serving import summary
from benchmarks.serving.contenders import BARE, BATCHED, BENTOML, BODIES, FASTAPI, LIMIT, OURS

ABOUT = {
    "date": "2026-11-22", "processor": "a processor", "cores": 2, "server_core": 0, "client_core": 1, "rounds": 3,
    "seconds": 1, "python": "3.11", "packages": {"bentoml": "1.4.39"},
}  # fmt: skip


def results(**rates: list[float]) -> dict[str, Any]:
    """Three rounds: each server has the same rate at every point, and times proportional to the number of clients."""
    names = {"ours": OURS, "bare": BARE, "batched": BATCHED, "fastapi": FASTAPI, "bentoml": BENTOML, "limit": LIMIT}
    points = [
        {
            **{"round": number, "server": names[name], "images": body.images, "raw": body.raw, "clients": clients},
            **asdict(Load(int(rate), 1.0, 1000 * clients / rate, 2000 * clients / rate, busy=0.25)),
        }
        for name, of_server in rates.items()
        for number, rate in enumerate(of_server, start=1)
        for body in BODIES
        for clients in (1, 16, 64)
    ]
    return {"about": ABOUT, "points": points, "bursts": []}


def test_ratio_compares_numbers_of_same_round() -> None:
    measured = results(ours=[1000, 3000, 900], bare=[1000, 2000, 1000])
    measured["points"].reverse()
    measurements = summary.Measurements(measured)
    assert measurements.ratios(BARE, BODIES[0], 16) == [1.0, 1.5, 0.9]
    assert measurements.ratios(BARE, BODIES[0], 16, "p99") == pytest.approx([1.0, 1 / 1.5, 1 / 0.9])
    assert measurements.ratios(FASTAPI, BODIES[0], 16) == []


def test_incomplete_round_has_no_ratio() -> None:
    measurements = summary.Measurements(results(ours=[1000, 3000, 900], bare=[1000, 2000]))
    assert measurements.ratios(BARE, BODIES[0], 16) == [1.0, 1.5]


def test_ratio_to_server_without_answers_is_infinite() -> None:
    slow = results(ours=[1000], bare=[1000])
    slow["points"][-1] |= asdict(Load(0, 1.0, math.inf, math.inf, lost=64))
    ratios = summary.Measurements(slow).ratios
    assert ratios(BARE, BODIES[-1], 64) == [math.inf]
    assert ratios(BARE, BODIES[-1], 64, "p99") == [0]
    assert f"| {BARE} | 64 | 0 | 0 | never | never | 64 | inf (inf-inf) |" in summary.write(slow)
    summary.draw(slow)


def test_each_target_is_reached_or_missed() -> None:
    measured = results(ours=[1200] * 3, bare=[1000] * 3, batched=[2000] * 3, fastapi=[300] * 3, bentoml=[220] * 3)
    measured["bursts"] = [{"round": 1, "server": OURS, "before": 1.0, "after": 1.3}]
    measured["deployment"] = {
        "starts": [2.5, 6.0, 2.9], "memory": 250e6, "swaps": {"swaps": 10, "requests": 9000, "errors": 0},
    }  # fmt: skip
    found = {target.what: target.verdict for target in summary.targets(summary.Measurements(measured), measured)}
    assert found["one image, JSON, 16 clients: requests/s against bare Starlette"] == "reached"
    assert found["one image, raw, 64 clients: requests/s against bare Starlette"] == "reached"
    assert found["one image, JSON, 16 clients: requests/s against Starlette, our decoder and batching"] == "missed"
    assert found["one image, raw, 16 clients: requests/s against FastAPI, the usual way"] == "reached, and the aim"
    assert found["one image, JSON, 64 clients: requests/s against BentoML, as documented"] == "reached"
    assert found["one image, JSON, one client: requests/s against bare Starlette"] == "reached, and the aim"
    assert found["one client, p50: right after 64 clients against before them"] == "missed"
    assert found["32 images, raw, 16 clients: p99 against bare Starlette"] == "reached, and the aim"
    assert found["errors and lost requests of 9,000, during 10 swaps of the champion"] == "reached"
    assert found["seconds from start to ready, model in the cache"] == "reached, and the aim"
    assert found["memory of one worker after 64 clients, MB"] == "reached"


def test_summary_is_markdown() -> None:
    measured = results(ours=[1200, 1300, 1250], bare=[1000] * 3, limit=[4000] * 3)
    measured["points"][0]["lost"] = 3
    text = summary.write(measured)
    assert "| ours | 1 | 1,250 | 1,250 | 0.80 | 1.60 | 3 |  |" in text
    assert "| bare Starlette | 16 | 1,000 | 32,000 | 16.00 | 32.00 | 0 | 1.25 (1.20-1.30) |" in text
    assert "wrk kept its core at most 25 % busy." in text
    assert "| 1.250 (1.200-1.300) | ≥ 1.05 | 1.3 | reached |" in text


def test_title_of_picture_has_speedups() -> None:
    figure = summary.draw(results(ours=[1200, 1300, 1250], bare=[1000] * 3, bentoml=[200] * 3))
    assert figure.texts[0].get_text() == "Throughput of ours: 6.2 times BentoML, 1.2 times bare Starlette"
    assert figure.get_size_inches()[0] * figure.dpi == 1200
