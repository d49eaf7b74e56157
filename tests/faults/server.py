"""A real MLflow server that goes away."""

import signal
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.processes import free_port, mlflow_server


class Server:
    """An MLflow server that can be killed, paused and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._started = ExitStack()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._started.enter_context(mlflow_server(self._folder, self._port))

    def _family(self) -> list[psutil.Process]:
        """The server's processes: those of this process's children that listen on the port, with their own children."""
        mine = [each for each in psutil.Process().children() if str(self._port) in each.cmdline()]
        return [each for process in mine for each in (process, *process.children(recursive=True))]

    def signal(self, number: int) -> None:
        for process in self._family():
            process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._started.close()

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self._started.close()
