"""MLflow's model registry: a registered model per data set, its versions, their tags and their aliases."""

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import onnx
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from pipeline import PipelineError
from pipeline.data.names import DIGITS, model_of
from pipeline.export import ParityError, check_contract
from pipeline.tracking.connection import once, silence
from pipeline.tracking.descriptions import describe_model, describe_version
from pipeline.training.fingerprint import PACKAGES, versions

log = logging.getLogger(__name__)

CHAMPION, PREVIOUS = "champion", "previous"  # what is served, and what was served before it
KEPT = (
    *("recipe", "network", "dataset", "subset", "data_digest", "fingerprint"),
    *("validation_accuracy", "test_accuracy"),
)
FILE, CHECKSUM = "model.onnx", "sha256"  # the name of a version's file, and of the tag with its checksum


class RegistryError(PipelineError):
    """The registry refuses; the message is one sentence with the reason."""


class DamagedFileError(RegistryError):
    """The file of a version is missing or damaged; `what` is the fact as a clause, the message adds the remedy."""

    def __init__(self, number: int, problem: str) -> None:
        self.what = f"the file of version {number} {problem}"
        super().__init__(f"{self.what[0].upper()}{self.what[1:]}: use another version, or restore a backup.")


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    number: int
    run_id: str
    tags: dict[str, str]
    description: str = ""
    model: str = DIGITS

    @property
    def dataset(self) -> str:
        """The data set it was trained on; earlier releases had MNIST alone and no such tag."""
        return self.tags.get("dataset", "mnist")

    @property
    def subset(self) -> str:
        """`full` or `tenth`; earlier releases called this tag `data`."""
        return self.tags.get("subset") or self.tags.get("data", "")


def register(file: Path, example: NDArray[np.uint8], run_id: str | None = None) -> Version:
    """Log an exported file as a run's model and register it as a new version, tagged with its metadata.

    Args:
        file: one ONNX file that keeps the contract.
        example: uint8 [n, height, width] or [n, height, width, 3], shown as the input example.
        run_id: a run that has one version at most, so that this may be repeated; the active run by default.
    """
    if run_id:
        if known := of_run(run_id):
            return known
        _delete_unregistered(run_id)
    model = onnx.load(file)
    logged = mlflow.onnx.log_model(
        model,
        name="model",
        run_id=run_id,
        signature=_signature(model),
        input_example=example,
        save_as_external_data=False,  # one file
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=[f"{each}=={versions()[each]}" for each in PACKAGES if each.startswith("onnx")],
    )
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    kept = {name: text for name, text in metadata.items() if name in KEPT}
    name = model_of(metadata.get("dataset", "mnist"))
    kept[CHECKSUM] = hashlib.sha256(file.read_bytes()).hexdigest()
    silence()
    with once():
        version = _version(mlflow.register_model(logged.model_uri, name, tags=kept))
    if run_id:
        version = of_run(run_id) or version
    client = mlflow.MlflowClient()
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, describe_model(metadata))
    return version


def find(fingerprint: str) -> list[Version]:
    """The versions of runs with this fingerprint, the newest first."""
    return _search(f"tags.fingerprint = '{fingerprint}'")


def find_intact(fingerprint: str) -> Version | None:
    """The newest version of a run with this fingerprint whose file is whole, if there is one."""
    for version in find(fingerprint):
        try:
            check(version)
            return version
        except DamagedFileError as error:
            log.warning("Version %s is not reused: %s.", version.number, error.what)
    return None


def all_versions(model: str = DIGITS) -> list[Version]:
    """All versions of a registered model, the newest first."""
    return _search(f"name = '{model}'")


def models() -> list[str]:
    """The names of the registered models that have versions."""
    return [each.name for each in mlflow.MlflowClient().search_registered_models() if all_versions(each.name)]


def get(number: int, model: str = DIGITS) -> Version:
    """A version by its number.

    Raises:
        RegistryError: there is none.
    """
    try:
        return _version(mlflow.MlflowClient().get_model_version(model, str(number)))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        there = ", ".join(str(each.number) for each in reversed(all_versions(model))) or "none"
        raise RegistryError(f"{model} has no version {number}; there are: {there}.") from None


def by_alias(alias: str, model: str = DIGITS) -> Version | None:
    """The version that has an alias, if any."""
    try:
        return _version(mlflow.MlflowClient().get_model_version_by_alias(model, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # no model of that name yet, or no version with that alias
        raise


def set_alias(alias: str, version: Version) -> None:
    """Move an alias to a version."""
    mlflow.MlflowClient().set_registered_model_alias(version.model, alias, str(version.number))


def find_number(number: str, model: str = DIGITS) -> Version | None:
    """The version of that number, if there is one; `number` may be any text."""
    return next((version for version in all_versions(model) if str(version.number) == number), None)


def delete_alias(alias: str, model: str = DIGITS) -> None:
    """Take an alias away from whichever version has it."""
    mlflow.MlflowClient().delete_registered_model_alias(model, alias)


def delete_tag(version: Version, name: str) -> None:
    """Delete a tag of a version."""
    mlflow.MlflowClient().delete_model_version_tag(version.model, str(version.number), name)


def set_tag(version: Version, name: str, value: str) -> None:
    """Set a tag of a version."""
    mlflow.MlflowClient().set_model_version_tag(version.model, str(version.number), name, value)


def describe(version: Version, tags: dict[str, str]) -> None:
    """Set a version's description from its new tags, unless a user wrote the present one."""
    if version.description in ("", describe_version(version.tags)):
        mlflow.MlflowClient().update_model_version(version.model, str(version.number), describe_version(tags))


def download(version: Version, folder: Path) -> Path:
    """Download a version's ONNX file into `folder`, and check it by its SHA-256.

    Earlier releases registered no SHA-256: then only the contract is checked.

    Raises:
        DamagedFileError: the file is missing or damaged.
    """
    got = mlflow.artifacts.download_artifacts(f"models:/{version.model}/{version.number}", dst_path=str(folder))
    file = Path(got) / FILE
    if not file.exists():
        raise DamagedFileError(version.number, "is missing")
    expected = version.tags.get(CHECKSUM)
    if expected and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise DamagedFileError(version.number, "is damaged (its SHA-256 is wrong)")
    try:
        check_contract(file)
    except ParityError as error:
        raise DamagedFileError(version.number, "is damaged (it breaks the contract)") from error
    return file


def check(version: Version) -> None:
    """Download a version's file only to check it.

    Raises:
        DamagedFileError: the file is missing or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        download(version, Path(folder))


def _search(condition: str) -> list[Version]:
    found = map(_version, mlflow.MlflowClient().search_model_versions(condition))
    return sorted(found, key=lambda version: version.number, reverse=True)


def of_run(run_id: str) -> Version | None:
    """The version of a run; later ones, of an attempt that had seemed to fail, are deleted."""
    client = mlflow.MlflowClient()
    found = sorted(map(_version, client.search_model_versions(f"run_id = '{run_id}'")), key=lambda each: each.number)
    for duplicate in found[1:]:
        client.delete_model_version(duplicate.model, str(duplicate.number))
    return found[0] if found else None


def _delete_unregistered(run_id: str) -> None:
    """Delete what an interrupted attempt logged as the run's model."""
    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(model.model_id)


def _version(found: ModelVersion) -> Version:
    # MLflow's server returns the number as text, its embedded store as an integer.
    return Version(int(found.version), found.run_id or "", dict(found.tags), found.description or "", found.name)


def _signature(model: onnx.ModelProto) -> ModelSignature:
    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        return TensorSpec(
            onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type),
            tuple(dimension.dim_value or -1 for dimension in tensor.shape.dim),
            value.name,
        )

    return ModelSignature(
        Schema([spec(value) for value in model.graph.input]),
        Schema([spec(value) for value in model.graph.output]),
    )
