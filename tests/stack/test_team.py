"""`docker-compose.team.yml` on a real engine: a registry moves to PostgreSQL and S3, and both are lost for a while."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .compose import BUILD_SECONDS, ROOT, TRAIN_SECONDS, Stack, docker, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.scale]

ALONE = "docker-compose.yml"
TEAM = "docker-compose.yml:docker-compose.team.yml:tests/stack/s3.yml"
KEY, SECRET = "team", "s3cret-of-the-store"
DIGIT = bytes(784)
BUCKET = """
import boto3
client = boto3.client("s3", endpoint_url="http://127.0.0.1:5000", region_name="us-east-1", aws_access_key_id="a",
                      aws_secret_access_key="b")
"""


class Team(Stack):
    """The flow of one machine, which becomes that of a team.

    Attributes:
        password: of the database.
        alone: the run of the champion before the move.
        moved: the log of the move.
    """

    def __init__(self, secrets: Path) -> None:
        """Create the secrets; the settings make a short training."""
        super().__init__(
            COMPOSE_FILE=ALONE,
            SECRETS_DIR=str(secrets),
            POSTGRES_IMAGE=f"digits-postgres-{secrets.parent.name}",
            ARTIFACTS="s3://digits/team",
            MLFLOW_S3_ENDPOINT_URL="http://s3:5000",
            PIPELINE_SUBSET="tenth",
            PIPELINE_RECIPE="dense",
            PIPELINE_MINIMUM_ACCURACY="0.8",
            SERVING_POLL_SECONDS="1",
        )
        subprocess.run(["sh", "deploy/secrets.sh", str(secrets)], cwd=ROOT, check=True)
        keys = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        (secrets / "s3.ini").write_text(keys)
        (secrets / "s3.ini").chmod(0o644)
        self.alone = self.moved = ""
        self.password = (secrets / "postgres.password").read_text().strip()

    def in_store(self, statement: str) -> str:
        """Run a statement with a client of the store, and return what it prints."""
        return self.compose("exec", "-T", "s3", "python", "-c", f"{BUCKET}{statement}").stdout.strip()

    def migrate(self) -> str:
        """Move the registry, and return the command's log."""
        return self.compose("run", "--rm", "migrate", timeout=TRAIN_SECONDS).stderr

    def follows_the_champion(self) -> bool:
        """Return whether the service has the champion of the registry, and no problem."""
        alias = f"{self.tracking}/api/2.0/mlflow/registered-models/alias"
        answer = httpx.get(alias, params={"name": "digits", "alias": "champion"}, timeout=60)
        model = httpx.get(f"{self.service}/model", timeout=60).json()
        if not answer.is_success:
            return False
        return (model["version"], model["problem"]) == (answer.json()["model_version"]["version"], None)

    def status(self) -> str:
        """Return the table of versions."""
        return self.compose("run", "--rm", "--no-deps", "train", "status").stdout


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Train on one machine, and move to the registry of a team."""
    flow = Team(tmp_path_factory.mktemp("team") / "secrets")
    image = flow.environment["POSTGRES_IMAGE"]
    try:
        base = flow.environment.get("BASE_IMAGE", "python:3.13-slim")
        network = flow.environment.get("DOCKER_BUILD_NETWORK", "default")
        subprocess.run(
            ["docker", "build", "--quiet", "--network", network, "--build-arg", f"BASE_IMAGE={base}", "--file",
             "deploy/postgres/Dockerfile", "--tag", image, "."],
            cwd=ROOT, check=True, capture_output=True, timeout=BUILD_SECONDS,
        )  # fmt: skip
        flow.compose("build", timeout=BUILD_SECONDS)
        flow.up()
        flow.alone = flow.served_run()
        flow.compose("down")  # the volumes stay
        flow.environment["COMPOSE_FILE"] = TEAM
        flow.compose("--profile", "migrate", "build", timeout=BUILD_SECONDS)
        flow.compose("up", "--detach", "--wait", "postgres", "s3")
        flow.in_store("client.create_bucket(Bucket='digits')")
        flow.moved = flow.migrate()
        flow.up()
        yield flow
    finally:
        flow.environment["COMPOSE_FILE"] = TEAM
        flow.remove()
        docker("image", "rm", "--force", image)


def test_champion_of_one_machine_is_served_from_the_registry_of_the_team(team: Team) -> None:
    assert "The registry is in postgresql+psycopg:" in team.moved
    assert team.served_run() == team.alone
    assert "skipping training" in team.log("train")
    assert httpx.post(f"{team.service}/predict/raw", content=DIGIT, timeout=60).status_code == 200


def test_registry_that_was_moved_is_moved_once(team: Team) -> None:
    assert "nothing was changed" in team.migrate()


def test_new_version_is_in_the_database_and_in_the_store(team: Team) -> None:
    before = int(team.in_store("print(client.list_objects_v2(Bucket='digits')['KeyCount'])"))
    team.compose("run", "--rm", "train", "train", "--seed", "2", timeout=TRAIN_SECONDS)
    assert len(team.runs()) == 2
    assert int(team.in_store("print(client.list_objects_v2(Bucket='digits')['KeyCount'])")) > before
    query = "PGPASSWORD=$(cat /run/secrets/postgres.password) psql -U mlflow -Atc 'SELECT version FROM model_versions'"
    rows = team.compose("exec", "-T", "postgres", "sh", "-c", query)
    assert sorted(rows.stdout.split()) == ["1", "2"]


def test_secrets_are_in_no_variable_and_no_log(team: Team) -> None:
    for service in ("postgres", "mlflow", "train", "serve"):
        described = json.dumps(team.inspect(service)) + team.log(service)
        assert team.password not in described, service
        assert SECRET not in described, service


def test_service_answers_while_database_and_store_are_away(team: Team) -> None:
    # A version that it has not fetched yet would be gone: moto keeps its files in memory.
    wait_for(team.follows_the_champion, 120, "the service did not follow the champion")
    team.compose("kill", "postgres", "s3")
    for _ in range(20):
        answer = httpx.post(f"{team.service}/predict/raw", content=DIGIT, timeout=60)
        assert answer.status_code == 200
    team.compose("up", "--detach", "--no-recreate", "postgres")
    wait_for(lambda: "champion" in team.status(), 120, "the registry did not come back")
    wait_for(team.follows_the_champion, 120, "the service did not follow the champion again")
