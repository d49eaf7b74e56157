"""A real MLflow registry, with what training does to it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient


@dataclass
class Registry:
    """Its URI, a client of it, and a folder for its artifacts."""

    uri: str
    client: MlflowClient
    artifacts: Path

    def register(self, file: Path) -> str:
        """Make a run that holds `file` as model.onnx, register it and make it champion; returns the version."""
        experiment = self.client.get_experiment_by_name("store") or self.client.get_experiment(
            self.client.create_experiment("store", None if self.uri.startswith("http") else self.artifacts.as_uri())
        )
        run = self.client.create_run(experiment.experiment_id)
        named = self.artifacts / run.info.run_id / "model.onnx"
        named.parent.mkdir(parents=True)
        shutil.copy(file, named)
        self.client.log_artifact(run.info.run_id, str(named), "model")
        source = f"{run.info.artifact_uri}/model"
        version = str(self.client.create_model_version("digits", source, run.info.run_id).version)
        self.make_champion(version)
        return version

    def make_champion(self, version: str) -> None:
        self.client.set_registered_model_alias("digits", "champion", version)
