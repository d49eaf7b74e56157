"""The script that writes the bill of materials of an image, run on the environment of the tests."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

from .bills import assert_valid, listed

SCRIPT = Path(__file__).parents[1] / ".ci" / "sbom.py"


def bill() -> str:
    command = [sys.executable, str(SCRIPT), "serve", "--version", "1.2.3"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_bill_is_valid_and_lists_what_is_installed() -> None:
    written = json.loads(bill())
    assert_valid(written)
    assert written["metadata"]["component"] == {"type": "container", "name": "digits-serve", "version": "1.2.3"}
    installed = {(canonicalize_name(each.name), each.version) for each in importlib.metadata.distributions()}
    assert installed - listed(written, "pypi") == set()
    assert listed(written, "generic") == {("python", platform.python_version())}
    licences = {each["name"]: each["licenses"] for each in written["components"] if "licenses" in each}
    assert licences["digits"] == [{"expression": "Apache-2.0"}]


def test_equal_packages_give_equal_bytes() -> None:
    assert bill() == bill()
