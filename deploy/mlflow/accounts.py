"""Create the accounts of MLflow that `train` and `serve` use, with the least rights that each needs.

Runs in a container of docker-compose.secure.yml after each start of MLflow. A second run changes nothing; a password
that changed in its file becomes the valid one. The administrator's credentials are in ~/.mlflow/credentials.
"""

import configparser
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

NAME = "digits"  # of the experiment and of the registered model
RIGHTS = {"train": "EDIT", "serve": "READ"}
WORKSPACE, ROLE = "default", "trains"


def password(account: str) -> str:
    """Return the password in the credentials file of an account."""
    parsed = configparser.ConfigParser()
    parsed.read_string((Path("/run/secrets") / f"{account}.ini").read_text())
    return parsed["mlflow"]["mlflow_tracking_password"]


def ensure(create: Callable[..., Any], *arguments: str | int) -> None:
    """Create something unless it exists."""
    try:
        create(*arguments)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def main() -> None:
    """Create what is missing, and set the passwords."""
    client = mlflow.MlflowClient()
    accounts = get_app_client("basic-auth", tracking_uri=mlflow.get_tracking_uri())
    ensure(client.create_experiment, NAME)
    ensure(client.create_registered_model, NAME)
    experiment = client.get_experiment_by_name(NAME).experiment_id
    for account, right in RIGHTS.items():
        ensure(accounts.create_user, account, password(account))
        accounts.update_user_password(account, password(account))
        ensure(accounts.grant_user_permission, account, "experiment", experiment, right)
        ensure(accounts.grant_user_permission, account, "registered_model", NAME, right)
        print(f"{account}: {right} on the experiment and the registered model {NAME}")
    # MLflow's client asks to create the registered model before each version, and needs the right to create for that.
    ensure(accounts.create_role, WORKSPACE, ROLE)
    role = next(role.id for role in accounts.list_roles(WORKSPACE) if role.name == ROLE)
    ensure(accounts.add_role_permission, role, "workspace", "*", "USE")
    ensure(accounts.assign_role, "train", role)


if __name__ == "__main__":
    try:
        main()
    except (MlflowException, OSError) as error:
        sys.exit(f"The accounts of MLflow were not created: {error}")
