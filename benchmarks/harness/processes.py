"""Processes of a benchmark: competitors that work in turns, servers on a core of their own, environments for them.

All are ended by their process ids, whatever happens meanwhile, Ctrl-C included.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0  # for a server to answer
GRACE_SECONDS = 10.0  # for a server to end by itself
# Settings of whoever runs the benchmark, which must not reach the servers.
OWN = ("SERVING_", "PIPELINE_", "MLFLOW_", "BENTOML_", "UVICORN_", "WEB_CONCURRENCY", "OMP_", "GOMP_")


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is one sentence."""


class Competitor:
    """A process that says what it is, waits for a line, works, and answers; each of its lines is JSON."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        # Ctrl-C reaches this process alone, which then ends the others.
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._process.kill()
        self._process.communicate()

    def introduce(self) -> Any:
        """Wait until it is ready, and hear what it is."""
        self.about = self._answer()
        return self.about

    def turn(self, line: object = "") -> Any:
        """Let it work, until it has answered."""
        assert self._process.stdin
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.name} ended with exit code {self._process.wait()}; its last words are above.")
        return json.loads(line)


class Server:
    """A server on one core.

    Args:
        name: for people.
        command: starts it.
        core: the number of the only core that it and its children get.
        log: file that gets what it says.
        environment: beside that of this process, without the settings of whoever runs the benchmark.
    """

    def __init__(
        self, name: str, command: Sequence[str], core: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.log = name, log
        kept = {variable: value for variable, value in os.environ.items() if not variable.startswith(OWN)}
        with log.open("ab") as output:
            self._process = psutil.Popen(
                on_core(core, command),
                cwd=ROOT,
                env={**kept, "OMP_NUM_THREADS": "1", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.go_on()  # who is stopped does not end
        family = self.family()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.terminate()
        for survivor in psutil.wait_procs(family, timeout=GRACE_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        # Children whose parent ended before them are in no family any more, but still in its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Let it compute nothing until `go_on`: many servers are busy even while they wait for requests."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it compute again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        """The process and all that it started, itself first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def wait_until(self, holds: Callable[[], bool], pause: float = 0.05) -> None:
        """Ask again and again.

        Args:
            holds: what must become true.
            pause: seconds between two looks.

        Raises:
            BenchmarkError: the server ended, or it took too long.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended with exit code {self._process.returncode}:\n{self._words()}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} is not ready after {PATIENCE_SECONDS:.0f} s:\n{self._words()}")
            time.sleep(pause)

    def _words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command, to run on one core; its children inherit that."""
    return ["taskset", "--cpu-list", str(core), *command]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def python_with(name: str) -> Path:
    """The Python of an environment of its own, `.venv-NAME`, which is made unless it is there.

    Args:
        name: of the file with its requirements, requirements/NAME.txt.

    Raises:
        BenchmarkError: they could not be installed.
    """
    folder, requirements = ROOT / f".venv-{name}", ROOT / "requirements" / f"{name}.txt"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"installing requirements/{name}.txt into {folder.name} (once; a few minutes)", flush=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run([*pip, "--requirement", str(requirements)], check=True)
        except (OSError, subprocess.CalledProcessError):
            raise BenchmarkError(f"requirements/{name}.txt could not be installed: what pip says is above.") from None
        installed.write_text(requirements.read_text())
    return python
