"""A registry as one machine fills it: an SQLite file with runs, versions and artifacts, made by MLflow's own client."""

import shutil
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

MODEL = "digits"
EPOCHS = 5
FILES = 5  # of each run
FEWER = 100  # runs of the registry `fewer`


def registry_of(folder: Path, empty_store: Path, runs: int, versions: int) -> Path:
    """Make a registry in a new folder, and return its database."""
    folder.mkdir()
    database = Path(shutil.copy(empty_store, folder / "mlflow.db"))
    fill(database, runs, versions)
    return database


def fill(database: Path, runs: int, versions: int) -> None:
    """Add runs with metrics, parameters, tags, inputs and five artifacts, and versions with tags and two aliases."""
    client = MlflowClient(f"sqlite:///{database}")
    artifacts = database.parent / "artifacts"
    experiment = client.create_experiment(MODEL, artifacts.as_uri())
    client.create_registered_model(MODEL, {"task": "digits"}, "Reads digits.")
    for number in range(runs):
        run = client.create_run(experiment, run_name=f"run {number}").info.run_id
        client.log_batch(
            run,
            [Metric(name, 0.1 * number + step, step, step) for name in ("loss", "accuracy") for step in range(EPOCHS)],
            [Param("seed", str(number)), Param("network", "small")],
            [RunTag("fingerprint", f"{number:064x}")],
        )
        source = DatasetInput(Dataset("mnist", "0" * 36, "code", "{}"), [InputTag("mlflow.data.context", "training")])
        client.log_inputs(run, [source])
        folder = artifacts / run / "artifacts"
        (folder / "pictures").mkdir(parents=True)
        for file in range(FILES):
            (folder / ("pictures" if file % 2 else ".") / f"{file}.bin").write_bytes(f"{number} {file} ".encode() * 50)
        client.set_terminated(run)
        if number < versions:
            version = client.create_model_version(MODEL, f"{folder.as_uri()}/pictures", run, {"verdict": "passed"})
    client.set_registered_model_alias(MODEL, "champion", version.version)
    client.set_registered_model_alias(MODEL, "previous", "1")
