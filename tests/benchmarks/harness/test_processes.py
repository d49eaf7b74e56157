"""Child processes of the benchmarks: they work in turns, pause, and end with the benchmark."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.harness.processes import BenchmarkError, JsonProcess, Server
from tests.processes import wait_until


def test_early_exit_of_process_is_reported_by_name() -> None:
    with (
        pytest.raises(BenchmarkError, match="the sleeper ended with exit code 3"),
        JsonProcess("the sleeper", [sys.executable, "-c", "raise SystemExit(3)"]) as sleeper,
    ):
        sleeper.wait_until_ready()


def test_process_answers_each_line_and_ends_with_benchmark() -> None:
    echo = "import sys; print('{}', flush=True); [print(line, end='', flush=True) for line in sys.stdin]"
    with JsonProcess("echo", [sys.executable, "-c", echo]) as process:
        assert process.wait_until_ready() == {}
        assert process.work(1) == 1
        assert process.work([2]) == [2]
    assert process._process.returncode is not None


def test_failed_start_of_server_shows_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        Server("the server", command, min(os.sched_getaffinity(0)), tmp_path / "log") as server,
        pytest.raises(BenchmarkError, match="the server ended with exit code 1:\nno such model"),
    ):
        server.wait_until(lambda: False)


def test_orphans_of_server_are_ended(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    parent = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{child}']).pid, flush=True)"
    log = tmp_path / "log"
    with Server("parent", [sys.executable, "-c", parent], min(os.sched_getaffinity(0)), log) as server:
        server._process.wait()
        orphan = psutil.Process(int(log.read_text()))
        assert orphan.is_running()
    wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the orphan's end")


def test_paused_server_uses_no_cpu_time(tmp_path: Path) -> None:
    busy = "while True: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{busy}'])\n{busy}"
    log, core = tmp_path / "log", min(os.sched_getaffinity(0))
    with Server("busy", [sys.executable, "-c", parent], core, log) as server:

        def cpu_seconds() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in server.family())

        wait_until(lambda: len(server.family()) == 2 and cpu_seconds() > 0.2, "CPU use of both processes")
        server.pause()
        paused = {psutil.STATUS_STOPPED}
        wait_until(lambda: {process.status() for process in server.family()} == paused, "pause of both processes")
        before = cpu_seconds()
        time.sleep(0.3)
        assert cpu_seconds() == before
        server.resume()
        wait_until(lambda: cpu_seconds() > before + 0.1, "resumed CPU use")
        server.pause()  # a paused server must end as well
    assert not server.family()
