"""Backup and restore of a real store, by the command line in processes of its own."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from io import BytesIO
from pathlib import Path

import mlflow
import pytest

from pipeline.tracking.location import relocate
from tests.processes import ROOT, mlflow_server, running, wait_until

pytestmark = pytest.mark.slow

TRAIN = ["train", "--subset", "tenth", "--recipe", "dense", "--minimum-accuracy", "0.5"]


def pipeline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode().strip().splitlines()[-1]


def restore(archive: Path, to: Path, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return pipeline("restore", "--from", str(archive), "--state-dir", str(to), *flags)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def table(state: Path) -> str:
    done = pipeline("status", "--state-dir", str(state))
    assert done.returncode == 0, last_line(done)
    return done.stdout.decode()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions, champion and previous, and the checkpoint of an interrupted run."""
    state = tmp_path_factory.mktemp("store") / "var"
    for seed in ("1", "2"):
        done = pipeline(*TRAIN, "--seed", seed, "--significance", "0.000001", "--state-dir", str(state))
        assert done.returncode == 0, last_line(done)
    log = state.parent / "log"
    command = [sys.executable, "-m", "pipeline", *TRAIN, "--seed", "3", "--state-dir", str(state)]
    with running(command, {}, log) as process:
        wait_until(lambda: "dense, epoch 2/5" in log.read_text(), "the second epoch")
        process.kill()
    (state / "data").mkdir()
    (state / "data" / "download").write_bytes(b"0" * 1000)
    return state


@pytest.fixture(scope="module")
def archive(store: Path) -> Path:
    done = pipeline("backup", "--to", str(store.parent / "digits.tar"), "--state-dir", str(store))
    assert done.returncode == 0, last_line(done)
    assert list(store.parent.glob("*.partial")) == []
    return store.parent / "digits.tar"


def test_lost_store_is_restored_in_another_folder(store: Path, archive: Path, tmp_path: Path) -> None:
    before, state = table(store), tmp_path / "moved"
    done = restore(archive, state)
    assert done.returncode == 0, last_line(done)
    hidden = store.rename(store.with_name("lost"))  # nothing may be read from the old place
    try:
        assert {path.name for path in state.iterdir()} == {"mlflow.db", "artifacts", "checkpoints"}
        assert contents(state / "artifacts") == contents(hidden / "artifacts")
        assert table(state) == before
        exported = pipeline("export", "--to", "-", "--state-dir", str(state))
        assert exported.returncode == 0, last_line(exported)
        assert exported.stdout in contents(hidden / "artifacts").values()
        resumed = pipeline(*TRAIN, "--seed", "3", "--state-dir", str(state))
        assert b"dense resumes from its checkpoint after " in resumed.stderr, last_line(resumed)
        back = pipeline("rollback", "--state-dir", str(state))
        assert back.returncode == 0, last_line(back)
    finally:
        hidden.rename(store)


def test_used_folder_is_replaced_only_if_told(store: Path, archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "var"
    assert restore(archive, state).returncode == 0
    (state / "artifacts" / "later").write_text("written after the backup")
    (state / "mlflow.db-wal").write_bytes(b"of another database")
    before = contents(state)
    refused = restore(archive, state)
    assert refused.returncode == 1
    assert "add --yes" in last_line(refused)
    assert contents(state) == before
    assert restore(archive, state, "--yes").returncode == 0
    assert contents(state).keys() == before.keys() - {"artifacts/later", "mlflow.db-wal"}
    assert table(state) == table(store)


def test_backup_of_a_store_that_is_written_is_consistent(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    to = tmp_path / "digits.tar"
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PIPELINE_STATE_DIR": str(tmp_path)}
    stop = threading.Event()

    with mlflow_server(tmp_path) as url:
        client = mlflow.MlflowClient(url)
        experiment = client.create_experiment("written")

        def write() -> None:
            while not stop.is_set():
                run = client.create_run(experiment).info.run_id
                client.log_text(run, "whole" * 20_000, "artifact.txt")
                client.set_tag(run, "complete", "yes")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(3):
                done = pipeline("backup", "--to", str(to), **environment)
                assert done.returncode == 0, last_line(done)
        finally:
            stop.set()
            writer.join()
    state = tmp_path / "again"
    assert restore(to, state).returncode == 0
    with closing(sqlite3.connect(state / "mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        runs = [run for (run,) in database.execute("SELECT run_uuid FROM tags WHERE key = 'complete'")]
    assert runs
    for run in runs:
        assert (state / "artifacts" / experiment / run / "artifacts" / "artifact.txt").read_text() == "whole" * 20_000


def rewritten(archive: Path, to: Path, name: str, member: tarfile.TarInfo | None = None) -> Path:
    """Copy an archive with one member replaced, or left out."""
    with tarfile.open(archive) as old, tarfile.open(to, "w") as new:
        for each in old:
            if each.name != name:
                new.addfile(each, old.extractfile(each))
            elif member:
                new.addfile(member, BytesIO(b"\0" * member.size))
    return to


def described(name: str, size: int = 3, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return member


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("cut", "is damaged (unexpected end of data)"),
        ("byte", "differs from its checksum"),
        ("no manifest", "is cut off, or is not a backup"),
        ("missing", "mlflow.db differs from its checksum"),
        ("climbing", "is damaged"),
        ("link", "which no backup does"),
        ("absolute", "which no backup does"),
        ("newer", "The archive has format 2, not 1"),
        ("text", "is damaged"),
    ],
)
def test_damaged_archive_is_refused_in_a_sentence(archive: Path, tmp_path: Path, damage: str, told: str) -> None:
    bad = tmp_path / "bad.tar"
    content = archive.read_bytes()
    match damage:
        case "cut":
            bad.write_bytes(content[: len(content) // 2])
        case "byte":
            with tarfile.open(archive) as tar:
                at = tar.getmember("mlflow.db").offset_data + 5000
            bad.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        case "no manifest":
            rewritten(archive, bad, "manifest.json")
        case "missing":
            rewritten(archive, bad, "mlflow.db")
        case "climbing":
            rewritten(archive, bad, "mlflow.db", described("artifacts/../../climbed"))
        case "link":
            rewritten(archive, bad, "mlflow.db", described("artifacts/link", 0, tarfile.SYMTYPE))
        case "absolute":
            rewritten(archive, bad, "mlflow.db", described("/artifacts/x"))
        case "newer":
            with tarfile.open(archive) as old, tarfile.open(bad, "w") as new:
                for each in old:
                    if each.name != "manifest.json":
                        new.addfile(each, old.extractfile(each))
                manifest = json.dumps({"format": 2}).encode()
                new.addfile(described("manifest.json", len(manifest)), BytesIO(manifest))
        case "text":
            bad.write_text("no archive " * 1000)
    done = restore(bad, tmp_path / "state" / "var")
    assert done.returncode == 1
    assert told in last_line(done)
    assert b"Traceback" not in done.stderr
    assert contents(tmp_path / "state") == {}
    assert not list(tmp_path.rglob("climbed"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_full_disk_is_one_sentence(store: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "backup", "--to", "-", "--state-dir", str(store)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    assert done.returncode != 0
    assert b"The backup failed at - (No space left on device)" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "told"),
    [("", "is a folder: name a file with --to."), ("file/digits.tar", "(File exists): mend that, and repeat.")],
)
def test_unwritable_target_is_one_sentence(store: Path, tmp_path: Path, target: str, told: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = pipeline("backup", "--to", str(tmp_path / target), "--state-dir", str(store))
    assert done.returncode == 1
    assert told in last_line(done)
    assert b"Traceback" not in done.stderr


def test_damaged_database_is_told_when_it_is_backed_up(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    done = pipeline("backup", "--to", str(tmp_path / "digits.tar"), "--state-dir", str(tmp_path))
    assert done.returncode == 1
    assert "cannot be copied (file is not a database)" in last_line(done)
    assert not (tmp_path / "digits.tar").exists()


def test_store_of_a_server_is_backed_up_where_its_files_are(tmp_path: Path) -> None:
    secret = "http://alice:secret@127.0.0.1:1"
    done = pipeline("backup", "--to", str(tmp_path / "digits.tar"), MLFLOW_TRACKING_URI=secret)
    assert done.returncode == 1
    assert "run this command where its files are" in last_line(done)
    assert b"secret" not in done.stderr


def test_backup_imports_neither_torch_nor_mlflow() -> None:
    code = "import sys, pipeline.__main__, pipeline.backup; print({'torch', 'mlflow'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_addresses_of_a_server_stay(tmp_path: Path, empty_store: Path) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(empty_store, database)
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    client.create_experiment("digits", artifact_location="mlflow-artifacts:/1")
    relocate(database, tmp_path / "artifacts")
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    assert experiment.artifact_location == "mlflow-artifacts:/1"
