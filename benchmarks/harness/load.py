"""Load on a server by wrk, which answers for itself: one thread of it sends far more than one core can serve."""

import json
import math
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from benchmarks.harness.processes import BenchmarkError, on_core

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_SECONDS = 10  # an answer that takes longer is lost


@dataclass(frozen=True)
class Load:
    """What wrk counted.

    Attributes:
        requests: that were answered, refusals included.
        seconds: in which they were.
        p50: median time to an answer, milliseconds.
        p99: the time that one answer in a hundred exceeds, milliseconds.
        refused: answers with a status of 400 or more.
        lost: connections that failed or broke, and answers that never came.
        busy: share of the time that wrk computed: near 1, wrk would be what is measured.
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
        """Refused and lost."""
        return self.refused + self.lost

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.requests - self.refused) / self.seconds

    @classmethod
    def read(cls, output: str) -> Self:
        """Take the numbers out of what wrk and `load.lua` print.

        Raises:
            BenchmarkError: there are none.
        """
        for line in output.splitlines():
            if line.startswith("MEASURED "):
                return cls(**json.loads(line.removeprefix("MEASURED ")))
        raise BenchmarkError(f"wrk measured nothing:\n{output.strip()[-1000:]}")


class Wrk:
    """A run of wrk that goes on while the benchmark does something else.

    Args:
        url: where to POST.
        body: file with the body of each request.
        content_type: of the body.
        clients: connections, each of which sends its next request when the last one is answered.
        seconds: how long; a whole number.
        core: for wrk alone.

    Raises:
        BenchmarkError: wrk is not installed.
    """

    def __init__(self, url: str, body: Path, content_type: str, clients: int, seconds: int, core: int) -> None:
        if not shutil.which("wrk"):
            raise BenchmarkError("The load comes from wrk, which is not installed: apt-get install wrk")
        command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--", content_type, str(body)]
        self._process = subprocess.Popen(
            on_core(core, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def runs(self) -> bool:
        """Whether it still sends."""
        return self._process.poll() is None

    def finish(self, now: bool = False) -> Load:
        """Wait for its end.

        Args:
            now: do not wait, but end it as Ctrl-C would, and take what it counted until now.

        Raises:
            BenchmarkError: it measured nothing.
        """
        before = _seconds_of_children()
        if now:
            self._process.send_signal(signal.SIGINT)
        try:
            output, _ = self._process.communicate()
        except BaseException:
            self.stop()
            raise
        measured = Load.read(output)
        return replace(measured, busy=(_seconds_of_children() - before) / measured.seconds)

    def stop(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.communicate()


def load(url: str, body: Path, content_type: str, clients: int, seconds: int, core: int) -> Load:
    """Put load on a server and wait; the arguments are those of `Wrk`.

    A server may be too slow for any answer in that time: what each client asked is lost then, and its wait without end.

    Raises:
        BenchmarkError: wrk is not installed, or measured nothing.
    """
    measured = Wrk(url, body, content_type, clients, seconds, core).finish()
    if not measured.requests:
        return replace(measured, p50=math.inf, p99=math.inf, lost=max(measured.lost, clients))
    return measured


def _seconds_of_children() -> float:
    """Seconds that children which have ended spent computing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
