"""Commands in processes that are killed: forked from one that has imported and used everything, which takes seconds.

It reads a JSON object a line: `arguments`, `log`, and `kill`, which is empty, or has the number of a write to the store
(`call`), before or after which the process kills itself (`moment`), or `seconds`. It answers each line with `code` and
`calls`, the number of writes of a command that was not killed.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has one thread
import torch
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from sqlalchemy.engine.default import DefaultDialect

from pipeline.__main__ import main
from pipeline.recipes import RECIPES

Call = Callable[..., Any]


class Killer:
    """Counts the writes to the store, and kills this process at one of them."""

    def __init__(self, call: int | None, moment: str) -> None:
        self.calls, self._call, self._moment = 0, call, moment
        self._changes: dict[int, int] = {}

    def wrap(self) -> None:
        """Count SQLite's commits that change something, and the copies into the folder of artifacts."""
        commit = self._counted(DefaultDialect.do_commit)

        def commit_or_count(dialect: DefaultDialect, connection: Any) -> None:
            before, now = self._changes.get(id(connection), 0), connection.total_changes
            self._changes[id(connection)] = now
            (commit if now != before else DO_COMMIT)(dialect, connection)

        DefaultDialect.do_commit = commit_or_count  # type: ignore[method-assign]
        for name in ("log_artifact", "log_artifacts"):
            setattr(LocalArtifactRepository, name, self._counted(getattr(LocalArtifactRepository, name)))

    def _counted(self, write: Call) -> Call:
        def counted(*given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self._call and self._moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = write(*given, **named)
            if self.calls == self._call:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return counted


DO_COMMIT = DefaultDialect.do_commit


def carry_out(arguments: list[str], log: str, kill: dict[str, Any], answer: int) -> int:
    """Run a command in this process, a fork; report the number of writes through the pipe `answer`."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    killer = Killer(kill.get("call"), kill.get("moment", ""))
    killer.wrap()
    if "seconds" in kill:
        timer = threading.Timer(kill["seconds"], os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    code = main(arguments)
    os.write(answer, str(killer.calls).encode())
    return code


def fork(order: dict[str, Any]) -> dict[str, int]:
    """Carry out an order in a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 70
        try:
            code = carry_out(**order, answer=writing)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        calls = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "calls": int(calls or 0)}


def serve() -> None:
    """Use everything once, then answer orders until the input ends."""
    torch.set_num_threads(1)
    RECIPES["dense"] = replace(RECIPES["dense"], epochs=2, batch_size=256)
    with tempfile.TemporaryDirectory() as folder:
        ready = main(
            ["train", "--recipe", "dense", "--subset", "tenth", "--minimum-accuracy", "0", "--state-dir", folder]
        )
    del os.environ["MLFLOW_TRACKING_URI"]  # MLflow sets it in its process
    print(json.dumps({"code": ready, "calls": 0}), flush=True)
    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
