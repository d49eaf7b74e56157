"""The outbox: a journal of the operations that MLflow has yet to receive, in the state folder.

A folder for each command: `operations.jsonl` has a line per operation, `files/N/` the files of operation N, and
`delivered` the number of operations that MLflow has. Every operation is on the disk before the command continues.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import PipelineError

FOLDER = "outbox"
END = "end"  # the last operation of a run
OPERATIONS, CURSOR, LOCK = "operations.jsonl", "delivered", "lock"


class OutboxError(PipelineError):
    """The journal cannot be written; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Operation:
    """One thing that MLflow is to do.

    Attributes:
        number: its place in the journal, from 0.
        name: what to do (see `pipeline.tracking.operations`).
        run: the key of the run that it belongs to.
        time: when it was reported, in milliseconds since 1970.
        values: its arguments, as JSON has them.
        files: the folder with its files.
    """

    number: int
    name: str
    run: str
    time: int
    values: dict[str, Any]
    files: Path


class Outbox:
    """The journal of one command; its lock is held until `close`, or until the process ends.

    Attributes:
        folder: its place.
        address: the MLflow store that the operations are meant for.
        delivered: the number of operations that MLflow has.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        lines = (folder / OPERATIONS).read_bytes().split(b"\n")[:-1]  # without a last line that was cut off
        self.address: str = json.loads(lines[0])["address"]
        self.operations = [self._operation(number, json.loads(line)) for number, line in enumerate(lines[1:])]
        cursor = folder / CURSOR
        self.delivered = int(cursor.read_text()) if cursor.exists() else 0
        self._end = sum(len(line) + 1 for line in lines)

    def _operation(self, number: int, line: dict[str, Any]) -> Operation:
        return Operation(number, line["name"], line["run"], line["time"], line["values"], self._files(number))

    def _files(self, number: int) -> Path:
        return self.folder / "files" / str(number)

    def append(self, name: str, run: str, values: dict[str, Any], files: Mapping[str, bytes]) -> None:
        """Write an operation to the disk.

        Args:
            name: what to do.
            run: the key of the run.
            values: the arguments.
            files: content by relative path.

        Raises:
            OutboxError: the disk is full, or the folder cannot be written.
        """
        number = len(self.operations)
        line = {"name": name, "run": run, "time": int(time.time() * 1000), "values": values}
        content = json.dumps(line).encode() + b"\n"
        try:
            for path, of_file in files.items():
                file = self._files(number) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                _write(file, of_file)
            with (self.folder / OPERATIONS).open("r+b") as journal:
                journal.truncate(self._end)  # without what an earlier attempt left on a full disk
                journal.seek(self._end)
                journal.write(content)
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise OutboxError(
                f"The outbox {self.folder} cannot be written ({error.strerror}): mend that, and run the same command "
                "to resume."
            ) from error
        self._end += len(content)
        self.operations.append(self._operation(number, line))

    def pending(self) -> list[Operation]:
        """The operations that MLflow has yet to receive, in order."""
        return self.operations[self.delivered :]

    def open_runs(self) -> list[str]:
        """The keys of the runs that have no end."""
        ended = {operation.run for operation in self.operations if operation.name == END}
        return [run for run in dict.fromkeys(operation.run for operation in self.operations) if run not in ended]

    def advance(self) -> None:
        """Note that the first pending operation is delivered; its files are deleted."""
        done = self.operations[self.delivered]
        partial = self.folder / f"{CURSOR}.partial"
        _write(partial, str(self.delivered + 1).encode())
        partial.replace(self.folder / CURSOR)
        self.delivered += 1
        shutil.rmtree(done.files, ignore_errors=True)

    def close(self) -> None:
        """Unlock the journal, and delete it if all of it is delivered, to the end of each run."""
        if not self.pending() and not self.open_runs():
            (self.folder / OPERATIONS).unlink(missing_ok=True)  # first: a journal without it has nothing to deliver
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # another command has its journal there
                self.folder.parent.rmdir()
        self._lock.release()


def create(state_dir: Path, address: str) -> Outbox:
    """Create the journal of this command.

    Raises:
        OutboxError: the state folder cannot be written.
    """
    name = f"{time.time_ns():019}-{uuid.uuid4().hex[:8]}"  # sorted by time
    hidden = state_dir / FOLDER / f".{name}"  # until it is locked: another command takes it for a left one
    try:
        hidden.mkdir(parents=True)
        lock = _lock(hidden)
        lock.acquire()
        _write(hidden / OPERATIONS, json.dumps({"address": address}).encode() + b"\n")
        folder = hidden.rename(state_dir / FOLDER / name)
    except OSError as error:
        raise OutboxError(f"{state_dir} cannot be written ({error.strerror}): choose another --state-dir.") from error
    return Outbox(folder, lock)


def left(state_dir: Path) -> Iterator[Outbox]:
    """The journals that earlier commands left, the oldest first; those of living processes are left out."""
    for folder in _folders(state_dir):
        lock = _lock(folder)
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):
            continue
        if (folder / OPERATIONS).exists():
            yield Outbox(folder, lock)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def count(state_dir: Path) -> int:
    """The number of operations that wait in all journals, including those of living processes."""
    waiting = 0
    for folder in _folders(state_dir):
        with suppress(FileNotFoundError):  # delivered meanwhile
            lines = (folder / OPERATIONS).read_bytes().count(b"\n") - 1
            cursor = folder / CURSOR
            waiting += lines - (int(cursor.read_text()) if cursor.exists() else 0)
    return waiting


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / LOCK, thread_local=False)  # the thread that delivers unlocks it


def _folders(state_dir: Path) -> list[Path]:
    return sorted(folder for folder in (state_dir / FOLDER).glob("[0-9]*") if folder.is_dir())


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
