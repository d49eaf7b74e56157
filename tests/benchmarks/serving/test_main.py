"""What the comparison of servers makes of its measurements, and that each reads the same digits."""

import math
import os
import re
import shutil
import socket
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.harness import load
from benchmarks.harness.load import Load, Wrk
from benchmarks.harness.processes import BenchmarkError, Server
from benchmarks.serving import __main__ as serving
from benchmarks.serving import summary as report
from benchmarks.serving.entrants import (
    BARE,
    BATCHED,
    BENTOML,
    BODIES,
    ENTRANTS,
    FASTAPI,
    LIMIT,
    MLFLOW,
    OURS,
    Body,
    digits_in,
    read_digits,
    start,
)  # fmt: skip
from tests.processes import wait_until

ROOT = serving.ROOT
PRINTED = """Running 1s test @ http://127.0.0.1:3000/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.02ms    1.10ms  12.30ms   88.00%
  Non-2xx or 3xx responses: 7

MEASURED {"requests": 4000, "seconds": 1.002, "p50": 3.9, "p99": 8.25, "refused": 7, "lost": 2}
"""
FILES = ("dev.txt", "servers.txt")
about = {
    "date": "2026-11-22", "processor": "a processor", "cores": 2, "server_core": 0, "client_core": 1, "rounds": 3,
    "seconds": 1, "python": "3.11", "packages": {"bentoml": "1.4.39"},
}  # fmt: skip


with_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed: apt-get install wrk")


def results(**rates: list[float]) -> dict[str, Any]:
    """Three rounds, in which a server answers as many requests at every point, and fewer clients wait less."""
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
    return {"about": about, "points": points, "bursts": []}


def test_what_wrk_prints_is_read() -> None:
    measured = Load.read(PRINTED)
    assert (measured.requests, measured.p50, measured.p99, measured.errors) == (4000, 3.9, 8.25, 9)
    assert measured.rate == pytest.approx(3993 / 1.002)  # a refusal is no answer


def test_what_wrk_says_instead_is_shown() -> None:
    with pytest.raises(BenchmarkError, match="unable to connect to"):
        Load.read("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_without_wrk_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.shutil, "which", lambda name: None)
    with pytest.raises(BenchmarkError, match="apt-get install wrk"):
        Wrk("http://127.0.0.1:1/", Path("body"), "text/plain", 1, 1, 0)


def test_a_ratio_is_one_of_the_same_round() -> None:
    measurements = report.Measurements(results(ours=[1000, 3000, 900], bare=[1000, 2000, 1000]))
    assert measurements.ratios(BARE, BODIES[0], 16) == [1.0, 1.5, 0.9]
    assert measurements.ratios(BARE, BODIES[0], 16, "p99") == pytest.approx([1.0, 1 / 1.5, 1 / 0.9])
    assert measurements.ratios(FASTAPI, BODIES[0], 16) == []


def test_each_bar_of_the_issue_says_reached_or_missed() -> None:
    measured = results(ours=[1200] * 3, bare=[1000] * 3, batched=[2000] * 3, fastapi=[300] * 3, bentoml=[220] * 3)
    measured["bursts"] = [{"round": 1, "server": OURS, "before": 1.0, "after": 1.3}]
    measured["deployment"] = {
        "starts": [2.5, 6.0, 2.9], "memory": 250e6, "swaps": {"swaps": 10, "requests": 9000, "errors": 0},
    }  # fmt: skip
    found = {bar.what: bar.verdict for bar in report.bars(report.Measurements(measured), measured)}
    assert found["one image, JSON, 16 clients: requests/s against bare Starlette"] == "reached"
    assert found["one image, raw, 64 clients: requests/s against bare Starlette"] == "reached"
    assert found["one image, JSON, 16 clients: requests/s against Starlette, our decoder and batching"] == "missed"
    assert found["one image, raw, 16 clients: requests/s against FastAPI, the usual way"] == "reached, and the aim"
    assert found["one image, JSON, 64 clients: requests/s against BentoML, as documented"] == "reached"
    assert found["one image, JSON, one client: requests/s against bare Starlette"] == "reached, and the aim"
    assert found["one client, p50: right after 64 clients against before them"] == "missed"
    assert found["32 images, raw, 16 clients: p99 against bare Starlette"] == "reached, and the aim"
    assert found["errors and lost requests of 9,000, while the champion was swapped 10 times"] == "reached"
    assert found["seconds from start to ready, model in the cache"] == "reached, and the aim"
    assert found["memory of one worker after 64 clients, MB"] == "reached"


def test_everything_is_printed_as_markdown() -> None:
    measured = results(ours=[1200, 1300, 1250], bare=[1000] * 3, limit=[4000] * 3)
    measured["points"][0]["lost"] = 3
    text = report.write(measured)
    assert "| ours | 1 | 1,250 | 1,250 | 0.80 | 1.60 | 3 |  |" in text
    assert "| bare Starlette | 16 | 1,000 | 32,000 | 16.00 | 32.00 | 0 | 1.25 (1.20-1.30) |" in text
    assert "wrk kept its core 25 % busy at most." in text
    assert "| 1.250 (1.200-1.300) | ≥ 1.05 | 1.3 | reached |" in text


def test_the_picture_is_drawn_and_says_what_to_see() -> None:
    figure = report.draw(results(ours=[1200, 1300, 1250], bare=[1000] * 3, bentoml=[200] * 3))
    assert figure.texts[0].get_text() == "How much ours answers: 6.2 times BentoML, 1.2 times bare Starlette"
    assert figure.get_size_inches()[0] * figure.dpi == 1200


def test_answers_of_all_forms_are_read() -> None:
    assert digits_in([{"digit": 3, "confidence": 1.0}, {"digit": 0, "confidence": 1.0}]) == [3, 0]
    assert digits_in({"predictions": {"probabilities": [[0.1, 0.9], [0.8, 0.2]]}}) == [1, 0]


def test_bodies_are_those_that_the_servers_take() -> None:
    (mlflow,) = (entrant for entrant in ENTRANTS if entrant.name == MLFLOW)
    assert mlflow.takes(Body(1, raw=False)) and not mlflow.takes(Body(1, raw=True))
    assert mlflow.content(Body(1, raw=False)).startswith(b'{"inputs": [[[0, ')
    assert ENTRANTS[0].content(Body(32, raw=True)) == read_digits(32).tobytes()


@pytest.fixture(scope="module")
def alone(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.prepare(model_file, tmp_path_factory.mktemp("alone"))[1]


@pytest.mark.parametrize("name", [OURS, BARE, BATCHED, FASTAPI, BENTOML])
def test_each_server_reads_the_same_digits(name: str, alone: Path, tmp_path: Path) -> None:
    (entrant,) = (entrant for entrant in ENTRANTS if entrant.name == name)
    running = start(entrant, alone, min(os.sched_getaffinity(0)), tmp_path)
    with running.server:
        running.wait_until_ready()
        serving.check(running, alone)
        listening = [c.laddr for p in running.server.family() for c in p.net_connections() if c.status == "LISTEN"]
        assert {address.ip for address in listening} == {"127.0.0.1"}
    assert not running.server.family()


def test_a_server_that_reads_something_else_is_named(alone: Path) -> None:
    class Wrong:
        entrant = ENTRANTS[0]

        def digits(self, body: Body) -> list[int]:
            return [0] * body.images

    with pytest.raises(BenchmarkError, match=r"ours reads \[0\] where the model reads \[\d\]"):
        serving.check(Wrong(), alone)  # type: ignore[arg-type]


def test_a_server_that_cannot_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        Server("the server", command, min(os.sched_getaffinity(0)), tmp_path / "log") as server,
        pytest.raises(BenchmarkError, match="the server ended with exit code 1:\nno such model"),
    ):
        server.wait_until(lambda: False)


def test_children_end_with_their_server_also_when_it_left_them_alone(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    parent = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{child}']).pid, flush=True)"
    log = tmp_path / "log"
    with Server("parent", [sys.executable, "-c", parent], min(os.sched_getaffinity(0)), log) as server:
        server._process.wait()
        orphan = psutil.Process(int(log.read_text()))
        assert orphan.is_running()
    wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "its end")


def test_a_server_that_is_not_asked_computes_nothing(tmp_path: Path) -> None:
    busy = "while True: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{busy}'])\n{busy}"
    log, core = tmp_path / "log", min(os.sched_getaffinity(0))
    with Server("busy", [sys.executable, "-c", parent], core, log) as server:

        def computed() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in server.family())

        wait_until(lambda: len(server.family()) == 2 and computed() > 0.2, "both computing")
        server.stop()
        states = {psutil.STATUS_STOPPED}
        wait_until(lambda: {process.status() for process in server.family()} == states, "both being stopped")
        before = computed()
        time.sleep(0.3)
        assert computed() == before
        server.go_on()
        wait_until(lambda: computed() > before + 0.1, "their going on")
        server.stop()  # and its end comes all the same
    assert not server.family()


def test_without_a_second_core_a_sentence_says_so() -> None:
    with pytest.raises(BenchmarkError, match="Two cores are needed"):
        serving.choose_cores([0, 0])


def test_environment_of_other_servers_has_our_versions() -> None:
    pins = [
        re.findall(r"^([a-z-]+)==([\w.]+)", (ROOT / "requirements" / file).read_text(), re.MULTILINE) for file in FILES
    ]
    locked, pinned = set(pins[0]), set(pins[1])
    assert {name for name, _ in pinned - locked} == {"litserve"}


@with_wrk
def test_a_server_that_never_answers_is_infinitely_slow(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"body")
    with socket.create_server(("127.0.0.1", 0)) as listener:  # whoever connects waits
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        measured = load.load(url, tmp_path / "body", "text/plain", 2, 1, max(os.sched_getaffinity(0)))
    assert (measured.rate, measured.p50, measured.errors) == (0, math.inf, 2)
    slow = results(ours=[1000], bare=[1000])
    slow["points"][-1] |= asdict(measured)
    ratios = report.Measurements(slow).ratios
    assert ratios(BARE, BODIES[-1], 64) == [math.inf]
    assert ratios(BARE, BODIES[-1], 64, "p99") == [0]
    report.draw(slow)


@with_wrk
def test_load_sends_the_body_and_counts_refusals(tmp_path: Path) -> None:
    class Refusing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            good = self.rfile.read(int(self.headers["Content-Length"])) == b"a\0body"
            self.send_response(200 if good and self.headers["Content-Type"] == "text/plain" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    (tmp_path / "body").write_bytes(b"a\0body")
    (tmp_path / "wrong").write_bytes(b"wrong")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        url, core = f"http://127.0.0.1:{server.server_port}/", max(os.sched_getaffinity(0))
        good = load.load(url, tmp_path / "body", "text/plain", 2, 1, core)
        refused = load.load(url, tmp_path / "wrong", "text/plain", 2, 1, core)
        server.shutdown()
    assert good.requests > 0 and good.refused == 0 and good.rate > 0 and good.p50 <= good.p99
    assert refused.refused == refused.requests > 0 and refused.rate == 0
