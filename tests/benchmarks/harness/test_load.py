"""HTTP load by wrk: its output, and real runs against small servers."""

import math
import os
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.harness.load import Request, Wrk, load, parse
from benchmarks.harness.processes import BenchmarkError

PRINTED = """Running 1s test @ http://127.0.0.1:3000/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.02ms    1.10ms  12.30ms   88.00%
  Non-2xx or 3xx responses: 7

MEASURED {"requests": 4000, "seconds": 1.002, "p50": 3.9, "p99": 8.25, "refused": 7, "lost": 2}
"""
with_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed: apt-get install wrk")


def test_output_of_wrk_is_parsed() -> None:
    measured = parse(PRINTED)
    assert (measured.requests, measured.p50, measured.p99, measured.errors) == (4000, 3.9, 8.25, 9)
    assert measured.rate == pytest.approx(3993 / 1.002)  # refused requests do not count


def test_error_output_of_wrk_is_shown() -> None:
    with pytest.raises(BenchmarkError, match="unable to connect to"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_error_without_wrk_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BenchmarkError, match="apt-get install wrk"):
        Wrk(Request("http://127.0.0.1:1/", Path("body"), "text/plain"), 1, 1, 0)


@with_wrk
def test_server_without_answers_is_infinitely_slow(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"body")
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts connections and never answers
        request = Request(f"http://127.0.0.1:{listener.getsockname()[1]}/", tmp_path / "body", "text/plain")
        measured = load(request, 2, 1, max(os.sched_getaffinity(0)))
    assert (measured.rate, measured.p50, measured.p99, measured.errors) == (0, math.inf, math.inf, 2)


@with_wrk
def test_load_sends_body_and_counts_refused_requests(tmp_path: Path) -> None:
    class Strict(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            good = self.rfile.read(int(self.headers["Content-Length"])) == b"a\0body"
            self.send_response(200 if good and self.headers["Content-Type"] == "text/plain" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    (tmp_path / "body").write_bytes(b"a\0body")
    (tmp_path / "wrong").write_bytes(b"wrong")
    with ThreadingHTTPServer(("127.0.0.1", 0), Strict) as server:
        threading.Thread(target=server.serve_forever).start()
        url, core = f"http://127.0.0.1:{server.server_port}/", max(os.sched_getaffinity(0))
        good = load(Request(url, tmp_path / "body", "text/plain"), 2, 1, core)
        refused = load(Request(url, tmp_path / "wrong", "text/plain"), 2, 1, core)
        server.shutdown()
    assert good.requests > 0 and good.refused == 0 and good.rate > 0 and good.p50 <= good.p99
    assert refused.refused == refused.requests > 0 and refused.rate == 0
