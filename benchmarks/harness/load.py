"""HTTP load from wrk: a single wrk thread sends far more requests than one core can serve.

wrk repeats one request over a fixed number of connections; `load.lua` prints its counters as JSON.
"""

import json
import math
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness.processes import BenchmarkError, on_core

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_SECONDS = 10  # a slower answer counts as lost


@dataclass(frozen=True)
class Request:
    """A POST request; `body` is the file that holds its body."""

    url: str
    body: Path
    content_type: str


@dataclass(frozen=True)
class Load:
    """Counters of one wrk run.

    Attributes:
        requests: answered requests, refused ones included.
        seconds: duration of the run.
        p50: median time to an answer, milliseconds.
        p99: 99th percentile of the time to an answer, milliseconds.
        refused: answers with a status of 400 or more.
        lost: failed or broken connections, and timeouts.
        busy: share of the duration in which wrk used its core; near 1, wrk itself is the bottleneck.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int = 0
    lost: int = 0
    busy: float = 0.0

    @property
    def errors(self) -> int:
        """Refused and lost requests."""
        return self.refused + self.lost

    @property
    def rate(self) -> float:
        """Successful answers per second."""
        return (self.requests - self.refused) / self.seconds


class Wrk:
    """A wrk process in the background.

    Args:
        request: repeated on each connection as soon as the previous answer has arrived.
        clients: number of connections.
        seconds: duration, whole seconds.
        core: the CPU core that only wrk uses.

    Raises:
        BenchmarkError: wrk is not installed.
    """

    def __init__(self, request: Request, clients: int, seconds: int, core: int) -> None:
        if not shutil.which("wrk"):
            raise BenchmarkError("The benchmark needs wrk, which is not installed: apt-get install wrk")
        command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), request.url]
        self._process = subprocess.Popen(
            on_core(core, [*command, "--", request.content_type, str(request.body)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, now: bool = False) -> Load:
        """Wait for the end of the run, or interrupt it `now` and keep its counters.

        Raises:
            BenchmarkError: wrk printed no counters.
        """
        before = _child_cpu_seconds()
        if now:
            self._process.send_signal(signal.SIGINT)
        try:
            output, _ = self._process.communicate()
        except BaseException:
            self.stop()
            raise
        measured = parse(output)
        return replace(measured, busy=(_child_cpu_seconds() - before) / measured.seconds)

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()


def parse(output: str) -> Load:
    """Read the counters that `load.lua` printed.

    Raises:
        BenchmarkError: the output has none.
    """
    for line in output.splitlines():
        if line.startswith("MEASURED "):
            return Load(**json.loads(line.removeprefix("MEASURED ")))
    raise BenchmarkError(f"wrk printed no measurement:\n{output.strip()[-1000:]}")


def load(request: Request, clients: int, seconds: int, core: int) -> Load:
    """Run wrk to its end; the arguments are those of `Wrk`.

    If the server answered nothing, all clients count as lost and the times are infinite.

    Raises:
        BenchmarkError: wrk is not installed, or printed no counters.
    """
    measured = Wrk(request, clients, seconds, core).finish()
    if not measured.requests:
        return replace(measured, p50=math.inf, p99=math.inf, lost=max(measured.lost, clients))
    return measured


def _child_cpu_seconds() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
