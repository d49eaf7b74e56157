"""`make audit`: advisories of a database on this machine, and none without a database."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).parents[1]
ADVISORY = {
    "id": "PYSEC-0000-1",
    "aliases": ["CVE-0000-1"],
    "affected": [
        {
            "package": {"name": "pillow", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}

pytestmark = pytest.mark.slow


class Database(BaseHTTPRequestHandler):
    """Answers like OSV: `/one` knows an advisory of Pillow, `/none` knows none, anything else fails."""

    queried: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        package = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        self.queried.add(package)
        self.send_response(200 if self.path in ("/one", "/none") else 500)
        self.end_headers()
        known = self.path == "/one" and package == "pillow"
        self.wfile.write(json.dumps({"vulns": [ADVISORY]} if known else {}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Leave the output to the tests."""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def audit(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_advisory_of_a_locked_version_fails_and_is_listed(database: str) -> None:
    found = audit("--osv-url", f"{database}/one")
    assert found.returncode == 1
    assert "PYSEC-0000-1 CVE-0000-1, fixed in 99.0" in found.stdout
    assert found.stdout.startswith("pillow ")
    assert {"torch", "onnxruntime", "litserve", "tensorflow-cpu"} <= Database.queried


def test_versions_without_advisories_pass(database: str) -> None:
    assert audit("--osv-url", f"{database}/none").returncode == 0


def test_failing_database_is_no_clean_result(database: str) -> None:
    failed = audit("--osv-url", f"{database}/failing")
    assert failed.returncode == 3
    assert failed.stderr.startswith("No advisory was read, so nothing is known about dev.txt: ")
    assert "Traceback" not in failed.stderr


def test_unreachable_database_is_no_clean_result() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    failed = audit("--osv-url", f"http://127.0.0.1:{port}/one")
    assert failed.returncode == 3
    assert len(failed.stderr.splitlines()) == 1
    assert "refused" in failed.stderr
