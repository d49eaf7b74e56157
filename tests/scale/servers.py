"""Real servers of a team: PostgreSQL from Debian, moto's S3 and MLflow on both; on this machine alone."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.extras import installed
from tests.processes import answers, free_port, running, wait_until

PASSWORD = "s3cret@home:1/2"  # of the database: with signs that have a meaning in addresses
KEYS = {"AWS_ACCESS_KEY_ID": "moto", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_DEFAULT_REGION": "us-east-1"}
THROUGH_THE_SERVER = {  # as in docker-compose.team.yml
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}


@dataclass(frozen=True)
class Postgres:
    """A running server and its superuser."""

    port: int
    binaries: Path

    def url(self, database: str, password: str = "s3cret%40home%3A1%2F2") -> str:
        return f"postgresql+psycopg://digits:{password}@127.0.0.1:{self.port}/{database}"

    def query(self, database: str, statement: str) -> list[str]:
        """The lines that `psql` prints for a statement."""
        command = [str(self.binaries / "psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "digits", "-d", database]
        done = subprocess.run(
            [*command, "-At", "-v", "ON_ERROR_STOP=1", "-c", statement],
            env=os.environ | {"PGPASSWORD": PASSWORD},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout.splitlines()

    def create(self) -> str:
        """Create a database, and return its name."""
        name = f"digits_{uuid.uuid4().hex[:8]}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return name

    def service(self, database: str, folder: Path) -> dict[str, str]:
        """The variables that lead libpq to the database by a service file."""
        file = folder / f"{database}.conf"
        file.write_text(
            f"[digits]\nhost=127.0.0.1\nport={self.port}\ndbname={database}\nuser=digits\npassword={PASSWORD}\n"
        )
        return {"PGSERVICEFILE": str(file)}


@contextmanager
def place_for_postgres() -> Iterator[Path]:
    """A folder that the user of PostgreSQL can reach, as those of pytest cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="digits-postgres-"))
    try:
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgres_server(folder: Path) -> Iterator[Postgres]:
    """Debian's PostgreSQL, started by deploy/postgres/start.sh."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert found, "PostgreSQL is missing: apt-get install postgresql"
    binaries, port = found[-1], free_port()
    (folder / "password").write_text(f"{PASSWORD}\n")
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PGDATA": str(folder / "data"),
        "POSTGRES_USER": "digits",
        "POSTGRES_DB": "mlflow",
        "POSTGRES_PASSWORD_FILE": str(folder / "password"),
    }
    command = ["sh", "deploy/postgres/start.sh", "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}"]
    command += ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]
    ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "digits", "-d", "mlflow"]
    with running(command, environment, folder / "log"):
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL answering")
        yield Postgres(port, binaries)


@contextmanager
def s3_server(folder: Path, **settings: str) -> Iterator[str]:
    """Moto's S3 server, which needs another python-dateutil than the lock has. Gives its URL."""
    port, packages = free_port(), installed("moto")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, {"PYTHONPATH": str(packages), **settings}, folder / "moto.log"):
        wait_until(lambda: answers(f"{url}/moto-api/"), "the S3 server answering")
        yield url


@contextmanager
def team_server(folder: Path, environment: dict[str, str], artifacts: str) -> Iterator[str]:
    """MLflow as in docker-compose.team.yml: two workers, the database by its service file. Gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    settings = {
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://?service=digits",
        "MLFLOW_WORKERS": "2",
        "MLFLOW_SERVE_ARTIFACTS": "true",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with running(command, environment | settings, folder / "mlflow.log"):
        wait_until(lambda: answers(f"{url}/health"), "the MLflow server answering")
        yield url


def packages_and_keys(s3: str) -> dict[str, str]:
    """The variables of a process that uses the packages of requirements/team.txt and an S3 server."""
    return {
        "PYTHONPATH": str(installed("team", "--no-deps", "--require-hashes")),
        "MLFLOW_S3_ENDPOINT_URL": s3,
        **KEYS,
    }
