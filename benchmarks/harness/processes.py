"""Child processes of a benchmark: servers on one core, processes that work in turns, and their environments.

Each is ended by its process id, even after an error or Ctrl-C.
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
from typing import Any, Self

import httpx
import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0  # timeout of a server's start
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
# Settings of the user's shell that must not change how a server runs.
REMOVED = ("SERVING_", "PIPELINE_", "MLFLOW_", "BENTOML_", "UVICORN_", "WEB_CONCURRENCY", "OMP_", "GOMP_")


class BenchmarkError(Exception):
    """The benchmark cannot continue; the message is one sentence."""


class JsonProcess:
    """A child process that answers each line on its standard input with one line of JSON.

    Its first line, printed when it is ready, describes it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        # A session of its own: Ctrl-C interrupts the benchmark alone, which then ends its children.
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_ready(self) -> Any:
        """Wait for the description, keep it in `about` and return it."""
        self.about = self._read()
        return self.about

    def work(self, line: object = "") -> Any:
        """Send one line and wait for the answer."""
        assert self._process.stdin
        print(line, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.name} ended with exit code {self._process.wait()}; its error output is above.")
        return json.loads(line)


class Server:
    """A server process on one core.

    Args:
        name: shown in messages.
        command: starts the server.
        core: the CPU core of the server and its children.
        log: file that receives its output.
        environment: variables to add to the environment of this process.
    """

    def __init__(
        self, name: str, command: Sequence[str], core: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.log = name, log
        kept = {variable: value for variable, value in os.environ.items() if not variable.startswith(REMOVED)}
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

    def __exit__(self, *_: object) -> None:
        self.resume()  # a paused process does not handle SIGTERM
        family = self.family()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.terminate()
        for survivor in psutil.wait_procs(family, timeout=GRACE_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        # Orphans are no longer children of the server, but still belong to its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """Stop all its processes with SIGSTOP: many servers use the CPU even while idle."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        """The server's process, then all its descendants; empty after its end."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def wait_until(self, condition: Callable[[], bool], pause: float = 0.05) -> None:
        """Poll a condition every `pause` seconds until it is true.

        Raises:
            BenchmarkError: the server ended, or START_SECONDS are over.
        """
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended with exit code {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} is not ready after {START_SECONDS:.0f} s:\n{self._tail()}")
            time.sleep(pause)

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command, pinned to one core; child processes inherit the pin."""
    return ["taskset", "--cpu-list", str(core), *command]


def free_port() -> int:
    """An unused port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_up(url: str) -> bool:
    """Whether a GET request succeeds."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def python_with(name: str) -> Path:
    """The Python of the virtual environment `.venv-NAME`, created from requirements/NAME.txt if missing or outdated.

    Raises:
        BenchmarkError: the installation failed.
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
            raise BenchmarkError(f"requirements/{name}.txt could not be installed: pip's error is above.") from None
        installed.write_text(requirements.read_text())
    return python
