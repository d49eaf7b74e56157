"""Packages that only some tests need: the environment of all others does not have them."""

import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from .processes import ROOT


def installed(name: str, *options: str) -> Path:
    """Install the packages of requirements/NAME.txt once, into a folder of their own, and return it."""
    lock, folder = ROOT / "requirements" / f"{name}.txt", ROOT / "build" / name
    done = folder / "done.txt"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.exists() or done.read_bytes() != lock.read_bytes():
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder), *options]
            subprocess.run([*command, "-r", str(lock)], check=True, timeout=600)
            shutil.copy(lock, done)
    return folder
