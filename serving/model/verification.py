"""Verify a model in a process of its own, with a deadline and limits on memory and processor time.

    python -m serving.model.verification NAME SECONDS < model.onnx

A graph decides how long it computes and how much memory it takes, and ONNX Runtime can stop neither. A file therefore
reaches this process's ONNX Runtime only after a child process has loaded and run the very same bytes. The digests of
approved files are kept in the cache, so that a restart does not pay for the child again.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from serving import __version__
from serving.errors import one_line
from serving.model.onnx_file import Model, ModelError, open_session
from serving.model.pruning import keep_outputs

ROOT = Path(__file__).parents[2]
RECORD = "verified.json"
# An approval holds for the versions that gave it.
CHECKER = f"digits {__version__}, ONNX Runtime {onnxruntime.__version__}"
TOO_LONG = -getattr(signal, "SIGXCPU", 24)  # the limit on processor time; Windows has none
# Exit codes; standard output has the reason.
REFUSED = 3
FAILED = 4
# Memory that a model may take beyond that of the libraries: the file in several copies, and its activations.
MEMORY_BYTES = 512 * 2**20
COPIES = 8
LOOK_SECONDS = 0.1


class UnverifiedError(Exception):
    """The file could not be verified at the moment; a retry may succeed."""


class Verifier:
    """Verifies files in child processes, one at a time among all workers with the same `folder`.

    Args:
        folder: for the record of approved files; if it is not writable, nothing is recorded.
        seconds: deadline of a child process.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()

    def verify(self, path: Path, content: bytes, begins: Callable[[], None]) -> None:
        """Return if `content` is approved, now or by an earlier verification.

        Args:
            path: origin of the content, for messages.
            content: an ONNX file.
            begins: called before a verification, which takes longer than a look at the record.

        Raises:
            ModelError: the content is refused.
            UnverifiedError: it could not be verified; a retry may succeed.
        """
        digest = hashlib.sha256(content).hexdigest()
        before = self._read()
        if digest == before.get("approved"):
            return
        begins()
        with self._turn():
            record = self._read()
            if digest == record.get("approved"):
                return
            refused = record.get("refused", {})
            # Refused while this worker waited. An older refusal does not count: a busy machine may have caused it.
            if refused != before.get("refused", {}) and refused.get("digest") == digest:
                raise ModelError(str(refused.get("sentence")))
            try:
                self._run(path, content)
            except ModelError as refusal:
                new = {"digest": digest, "sentence": str(refusal), "by": f"{os.getpid()} at {time.monotonic()}"}
                self._write({**record, "refused": new})
                raise
            self._write({**record, "approved": digest, "checker": CHECKER})

    def close(self) -> None:
        """End a verification in progress, from another thread."""
        self._closed.set()
        if process := self._process:
            process.kill()

    def _run(self, path: Path, content: bytes) -> None:
        command = [sys.executable, "-m", "serving.model.verification", str(path), str(self._seconds)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # otherwise a thread and 10 MB per core
        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise UnverifiedError(f"{path} cannot be verified now: {error.strerror or error}.") from error
        self._process = process
        try:
            if self._closed.is_set():
                process.kill()
            output, _ = process.communicate(content, self._seconds)
        except subprocess.TimeoutExpired:
            raise self._too_slow(path) from None
        finally:
            self._process = None
            process.kill()
            process.communicate()
        if self._closed.is_set():
            raise UnverifiedError(f"{path} is not verified, because the service stops.")
        if process.returncode in (-signal.SIGTERM, -signal.SIGINT):  # as all processes of a terminal or container
            raise UnverifiedError(f"{path} is not verified, because its process was ended.")
        if process.returncode == TOO_LONG:
            raise self._too_slow(path)
        if process.returncode == REFUSED:
            raise ModelError(output.decode(errors="replace"))
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise ModelError(f"{path} ends its verification by {name}; it may need {_mebibytes(content)} MiB or more.")
        if process.returncode > 0:
            raise UnverifiedError(f"{path} cannot be verified: {output.decode(errors='replace') or 'no start'}.")

    def _too_slow(self, path: Path) -> ModelError:
        return ModelError(f"{path} is not verified within {self._seconds:g} s (SERVING_VERIFY_SECONDS).")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the verifications of other workers; they hold a lock on the folder."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = os.open(self._folder, os.O_RDONLY)
        except OSError:
            yield
            return
        try:
            # A worker that is stopped in its turn must not stop the others.
            deadline = time.monotonic() + 2 * self._seconds
            while not (self._closed.is_set() or _locks(folder)) and time.monotonic() < deadline:
                self._closed.wait(LOOK_SECONDS)
            yield
        finally:
            os.close(folder)

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads((self._folder / RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and record.get("checker", CHECKER) == CHECKER else {}

    def _write(self, record: dict[str, Any]) -> None:
        partial = self._folder / f"{RECORD}.{os.getpid()}"
        with suppress(OSError):
            partial.write_text(json.dumps(record))
            partial.replace(self._folder / RECORD)


def _locks(folder: int) -> bool:
    """Return whether the lock on `folder` is ours now, or cannot be had on this system."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _mebibytes(content: bytes) -> int:
    return (MEMORY_BYTES + COPIES * len(content)) // 2**20


def _limit_this_process(content: bytes, seconds: float) -> None:
    if sys.platform == "win32":
        return
    import resource

    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process ends and not the service
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    except OSError:
        pages = 0
    most = pages * resource.getpagesize() + _mebibytes(content) * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The service ends this process at its deadline. If the service was killed, this limit does.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))


def _verify(path: Path, content: bytes) -> None:
    model = Model.parse(path, content)
    if not model.feature_maps:
        return
    # The service computes them for its first explanation.
    try:
        session = open_session(keep_outputs(content, *model.feature_maps), 1)
        maps = session.run(list(model.feature_maps), {"images": np.zeros((1, *model.form.shape), np.uint8)})
    except Exception as error:
        raise ModelError(f"{path} fails to compute its feature maps: {one_line(error)}.") from error
    for name, found in zip(model.feature_maps, maps, strict=True):
        shape = np.asarray(found).shape
        if len(shape) != 4 or shape[0] != 1:
            raise ModelError(f"{path} returns {name} of shape {shape}, expected [batch, channels, height, width].")


def main() -> int:
    """Verify the model on standard input; return 0, `REFUSED` after printing one sentence, or `FAILED` likewise."""
    path, seconds = Path(sys.argv[1]), float(sys.argv[2])
    content = sys.stdin.buffer.read()
    try:
        _limit_this_process(content, seconds)
        _verify(path, content)
    except ModelError as refusal:
        sentence = str(refusal)
    except MemoryError:
        sentence = f"{path} needs more than {_mebibytes(content)} MiB of memory."
    except Exception as error:
        sys.stdout.buffer.write(f"{type(error).__name__}: {one_line(error)}".encode())
        return FAILED
    else:
        return 0
    sys.stdout.buffer.write(sentence.encode())
    return REFUSED


if __name__ == "__main__":
    raise SystemExit(main())
