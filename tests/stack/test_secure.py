"""`docker-compose.secure.yml` on a real engine: TLS, tokens, accounts with few rights, no secret elsewhere."""

import configparser
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .compose import BUILD_SECONDS, ROOT, TRAIN_SECONDS, Stack, docker, wait_for

pytestmark = pytest.mark.stack

API = "/api/2.0/mlflow"
DIGIT = bytes(784)
SERVICES = ("proxy", "mlflow", "accounts", "train", "serve")


class SecureStack(Stack):
    """The flow behind its proxy, with new secrets."""

    def __init__(self, secrets: Path) -> None:
        """Create secrets in `secrets`; the settings make a short training."""
        super().__init__(
            COMPOSE_FILE="docker-compose.yml:docker-compose.secure.yml",
            SECRETS_DIR=str(secrets),
            PUBLIC_HOST="127.0.0.1",
            PIPELINE_SUBSET="tenth",
            PIPELINE_RECIPE="dense",
            PIPELINE_MINIMUM_ACCURACY="0.8",
        )
        subprocess.run(["sh", "deploy/secrets.sh", str(secrets), "127.0.0.1"], cwd=ROOT, check=True)
        self.secrets = secrets
        trusted = ssl.create_default_context(cafile=str(secrets / "proxy.pem"))
        self.digits = httpx.Client(base_url=f"https://127.0.0.1:{self.serve_port}", verify=trusted, timeout=60)
        self.mlflow = httpx.Client(base_url=f"https://127.0.0.1:{self.mlflow_port}", verify=trusted, timeout=60)

    def token(self) -> dict[str, str]:
        """Return the header with a valid token."""
        return {"Authorization": f"Bearer {(self.secrets / 'tokens').read_text().strip()}"}

    def account(self, name: str) -> tuple[str, str]:
        """Return user name and password of an account of MLflow."""
        parsed = configparser.ConfigParser()
        parsed.read(self.secrets / f"{name}.ini")
        return parsed["mlflow"]["mlflow_tracking_username"], parsed["mlflow"]["mlflow_tracking_password"]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureStack]:
    """Start the overlay and train a small model through it."""
    flow = SecureStack(tmp_path_factory.mktemp("secrets"))
    try:
        flow.compose("build", timeout=BUILD_SECONDS)
        flow.compose("up", "--detach", timeout=TRAIN_SECONDS)
        wait_for(lambda: flow.digits.get("/readyz").is_success, 90, "the service was not ready")
        yield flow
    finally:
        flow.digits.close()
        flow.mlflow.close()
        flow.remove()


def test_only_the_proxy_publishes_ports_and_nothing_has_privileges(secure: SecureStack) -> None:
    for service in SERVICES:
        container = secure.inspect(service)
        assert bool(container["HostConfig"]["PortBindings"]) == (service == "proxy"), service
        assert container["Config"]["User"] == "10001:10001", service
        assert container["HostConfig"]["ReadonlyRootfs"], service
        assert container["HostConfig"]["CapDrop"] == ["ALL"], service
        assert container["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"], service


@pytest.mark.parametrize("port", ["serve_port", "mlflow_port"])
def test_plain_http_is_not_answered(secure: SecureStack, port: str) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{getattr(secure, port)}/health")


def test_prediction_needs_a_token(secure: SecureStack) -> None:
    answered = secure.digits.post("/predict/raw", content=DIGIT, headers=secure.token())
    assert answered.status_code == 200, answered.text
    assert "digit" in answered.json()[0]
    assert secure.digits.post("/predict/raw", content=DIGIT).status_code == 401
    wrong = {"Authorization": "Bearer s3cret"}
    assert secure.digits.post("/predict/raw", content=DIGIT, headers=wrong).status_code == 401
    assert secure.digits.get("/readyz").status_code == 200
    assert secure.digits.get("/metrics").status_code == 404
    other = {**secure.token(), "Host": "elsewhere"}
    assert secure.digits.post("/predict/raw", content=DIGIT, headers=other).status_code == 421


def test_mlflow_needs_a_login(secure: SecureStack) -> None:
    assert secure.mlflow.get("/").status_code == 401
    query = {"max_results": 10}
    search = f"{API}/experiments/search"
    assert secure.mlflow.get(search, params=query).status_code == 401
    assert secure.mlflow.get(search, params=query, auth=("admin", "s3cret")).status_code == 401
    found = secure.mlflow.get(search, params=query, auth=secure.account("admin"))
    assert "digits" in [each["name"] for each in found.raise_for_status().json()["experiments"]]


def test_accounts_of_the_containers_have_the_least_rights(secure: SecureStack) -> None:
    def status(account: str, route: str, **body: object) -> int:
        return secure.mlflow.post(f"{API}/{route}", auth=secure.account(account), json=body).status_code

    model = {"name": "digits", "version": "1"}
    read = secure.mlflow.get(f"{API}/model-versions/get", params=model, auth=secure.account("serve"))
    assert read.status_code == 200, read.text
    experiment = secure.mlflow.get(
        f"{API}/experiments/get-by-name", params={"experiment_name": "digits"}, auth=secure.account("serve")
    ).json()["experiment"]["experiment_id"]
    assert status("serve", "registered-models/alias", alias="champion", **model) == 403
    assert status("serve", "model-versions/set-tag", key="k", value="v", **model) == 403
    assert status("serve", "runs/create", experiment_id=experiment) == 403
    assert status("serve", "experiments/create", name="another") == 403
    assert status("serve", "registered-models/create", name="another") == 403
    for account in ("serve", "train"):
        assert status(account, "experiments/delete", experiment_id=experiment) == 403
        assert status(account, "users/create", username="mallory", password="s3cret-s3cret") == 403


def test_secrets_stand_in_no_log_no_container_no_run_and_no_answer(secure: SecureStack) -> None:
    hidden = {secure.account(name)[1] for name in ("admin", "train", "serve")}
    hidden |= {(secure.secrets / name).read_text().strip() for name in ("tokens", "mlflow.key")}
    hidden.add((secure.secrets / "proxy.pem").read_text().split("PRIVATE KEY-----")[1].split()[0])
    assert len(hidden) == 6
    shown = {"/model": secure.digits.get("/model", headers=secure.token()).text}
    for service in SERVICES:
        container = secure.inspect(service)
        shown[f"log of {service}"] = secure.log(service)
        shown[f"inspection of {service}"] = json.dumps(container)
        shown[f"image of {service}"] = docker("history", "--no-trunc", container["Image"])
    admin = secure.account("admin")
    found = secure.mlflow.post(f"{API}/experiments/search", auth=admin, json={"max_results": 10}).json()["experiments"]
    runs = secure.mlflow.post(
        f"{API}/runs/search", auth=admin, json={"experiment_ids": [each["experiment_id"] for each in found]}
    )
    assert runs.json()["runs"]
    shown["runs"] = runs.text
    assert [(where, secret) for where, text in shown.items() for secret in hidden if secret in text] == []
