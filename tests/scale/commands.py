"""The pipeline's commands in processes of their own, and what they leave in a store."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.processes import ROOT

Done = subprocess.CompletedProcess[str]


def pipeline(*arguments: str, **environment: str) -> Done:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )


def migration(source: Path, to: str, artifacts: str) -> list[str]:
    """The arguments of a move."""
    return ["migrate", "--from", f"sqlite:///{source}", "--to", to, "--artifacts", artifacts]


def command(source: Path, to: str, artifacts: str) -> list[str]:
    """The command line of a move, for a process that is killed."""
    return [sys.executable, "-m", "pipeline", *migration(source, to, artifacts)]


def migrate(source: Path, to: str, artifacts: str, environment: dict[str, str]) -> Done:
    """Move a registry."""
    return pipeline(*migration(source, to, artifacts), **environment)


def last_line(done: Done) -> str:
    """The end of a command's log."""
    return done.stderr.strip().splitlines()[-1]


def keys(s3: str, bucket: str) -> int:
    """The number of files in a bucket."""
    listed = httpx.get(f"{s3}/{bucket}", params={"list-type": "2", "max-keys": "9999"}).raise_for_status().text
    return listed.count("<Key>")
