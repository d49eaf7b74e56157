"""The journal of reports, on a real file system."""

import json
import resource
import sys
from pathlib import Path

import pytest

from pipeline.tracking import outbox
from pipeline.tracking.outbox import Outbox, OutboxError
from tests.processes import running, wait_until

RUN = "a" * 32


def write(journal: Outbox, number: int) -> None:
    journal.append("metrics", RUN, {"number": number}, {"some/file.txt": str(number).encode()})


def numbers(journal: Outbox) -> list[int]:
    return [operation.values["number"] for operation in journal.pending()]


def only_folder(state: Path) -> Path:
    (folder,) = (state / "outbox").iterdir()
    return folder


def test_operations_wait_in_order_until_they_are_delivered(tmp_path: Path) -> None:
    journal = outbox.create(tmp_path, "here")
    for number in range(3):
        write(journal, number)
    journal.advance()
    assert not journal.operations[0].files.exists()
    journal.close()
    (again,) = outbox.left(tmp_path)
    assert (again.address, numbers(again), outbox.count(tmp_path)) == ("here", [1, 2], 2)
    assert [(operation.files / "some" / "file.txt").read_text() for operation in again.pending()] == ["1", "2"]
    assert again.pending()[0].time == journal.operations[1].time
    for _ in range(2):
        again.advance()
    again.append("end", RUN, {}, {})
    again.advance()
    again.close()
    assert not list(tmp_path.iterdir())


def test_journal_stays_until_its_run_has_an_end(tmp_path: Path) -> None:
    journal = outbox.create(tmp_path, "here")
    write(journal, 0)
    journal.advance()
    journal.close()
    (again,) = outbox.left(tmp_path)
    assert (again.pending(), again.open_runs()) == ([], [RUN])


def test_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    journal = outbox.create(tmp_path, "here")
    write(journal, 0)
    journal.close()
    with (only_folder(tmp_path) / "operations.jsonl").open("ab") as file:
        file.write(b'{"name": "metr')
    (again,) = outbox.left(tmp_path)
    write(again, 1)
    again.close()
    (last,) = outbox.left(tmp_path)
    assert numbers(last) == [0, 1]


def test_full_disk_is_one_sentence_and_the_journal_stays_whole(tmp_path: Path) -> None:
    journal = outbox.create(tmp_path, "here")
    write(journal, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (only_folder(tmp_path) / "operations.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))  # limits the size of files, like a full disk
    try:
        with pytest.raises(OutboxError, match=r"outbox .* cannot be written \(File too large\): mend that, and run"):
            write(journal, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    write(journal, 2)
    lines = (only_folder(tmp_path) / "operations.jsonl").read_text().splitlines()
    assert [json.loads(line)["values"]["number"] for line in lines[1:]] == numbers(journal) == [0, 2]


def test_folder_without_write_access_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("in the way")
    with pytest.raises(OutboxError, match=r"cannot be written \(.*\): choose another --state-dir"):
        outbox.create(tmp_path, "here")


OWNER = """
import sys, time
from pathlib import Path
from pipeline.tracking import outbox
journal = outbox.create(Path(sys.argv[1]), "here")
journal.append("metrics", "a" * 32, {"number": 7}, {})
print("written", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_journal_of_a_living_process_is_left_alone_and_that_of_a_killed_one_is_found(tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    with running([sys.executable, "-c", OWNER, str(state)], {}, log) as process:
        wait_until(lambda: "written" in log.read_text(), "the report")
        assert list(outbox.left(state)) == []
        assert outbox.count(state) == 1
        process.kill()
        process.wait()
    (found,) = outbox.left(state)
    assert numbers(found) == [7]


def test_folder_of_a_command_that_was_killed_at_its_start_is_removed(tmp_path: Path) -> None:
    journal = outbox.create(tmp_path, "here")
    write(journal, 0)
    (only_folder(tmp_path) / "operations.jsonl").unlink()  # as if killed while it removes them
    journal.close()
    assert list(outbox.left(tmp_path)) == []
    assert not list((tmp_path / "outbox").glob("*"))
