"""The model registry: versions of the model `digits`, which of them is champion, and why.

Aliases: `champion` is what is served, `previous` is what was served before it. A version's tags say why it won or lost.
"""

import logging
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
from scipy.stats import binomtest

from pipeline import PipelineError
from pipeline.training.fingerprint import PACKAGES, versions

log = logging.getLogger(__name__)

MODEL = "digits"
CHAMPION, PREVIOUS = "champion", "previous"
KEPT = ("recipe", "network", "data", "data_digest", "fingerprint", "validation_accuracy", "test_accuracy")


class RegistryError(PipelineError):
    """The registry cannot do this; the message is one sentence that says why."""


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate becomes champion, and the sentence that says why."""

    promoted: bool
    reason: str


def register(file: Path, example: NDArray[np.uint8]) -> ModelVersion:
    """Log an exported file as the active run's model and register it as a new version, tagged with its metadata.

    Args:
        file: one ONNX file that keeps the contract.
        example: uint8 [n, 28, 28], shown as the input example.
    """
    model = onnx.load(file)
    logged = mlflow.onnx.log_model(
        model,
        name="model",
        signature=_signature(model),
        input_example=example,
        save_as_external_data=False,  # one file
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=[f"{name}=={versions()[name]}" for name in PACKAGES if name.startswith("onnx")],
    )
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key in KEPT}
    return mlflow.register_model(logged.model_uri, MODEL, tags=kept)


def find(fingerprint: str) -> ModelVersion | None:
    """The newest version that the same settings, data and code gave, if there is one."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL}' and tags.fingerprint = '{fingerprint}'")
    return max(found, key=number, default=None)


def versions_of_model() -> list[ModelVersion]:
    """All versions, the newest first."""
    return sorted(mlflow.MlflowClient().search_model_versions(f"name = '{MODEL}'"), key=number, reverse=True)


def number(version: ModelVersion) -> int:
    """A version's number: MLflow's server gives it as a text, its embedded store as a number."""
    return int(version.version)


def get(version: int) -> ModelVersion:
    """A version by its number.

    Raises:
        RegistryError: there is none.
    """
    try:
        return mlflow.MlflowClient().get_model_version(MODEL, str(version))
    except MlflowException:
        there = ", ".join(str(number(each)) for each in reversed(versions_of_model())) or "none"
        raise RegistryError(f"{MODEL} has no version {version}; there are: {there}.") from None


def by_alias(alias: str) -> ModelVersion | None:
    """The version that has an alias, if any."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(MODEL, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # no model of that name yet, or no version with that alias
        raise


def download(version: ModelVersion, folder: Path) -> Path:
    """Fetch a version's ONNX file into `folder`."""
    got = mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{number(version)}", dst_path=str(folder))
    return Path(got) / "model.onnx"


def judge(
    right: NDArray[np.bool_],
    champion_right: NDArray[np.bool_] | None,
    minimum_accuracy: float,
    significance: float,
) -> Verdict:
    """Decide whether a candidate becomes champion.

    It must reach the minimum, and must not lose to the champion: of the digits that only one of the two reads right,
    it may not read so few that an equal model would do as badly with a probability below `significance` only.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions" (1947), in its
    exact, one-sided form.

    Args:
        right: which validation digits the candidate reads right, bool [n].
        champion_right: the same of the champion, on the same digits; None if there is no champion.
        minimum_accuracy: share of right answers, 0 to 1.
        significance: 0 to 1.
    """
    accuracy = float(right.mean())
    if accuracy < minimum_accuracy:
        return Verdict(
            False,
            f"it reads {accuracy:.2%} of the validation digits right, and {minimum_accuracy:.2%} are required",
        )
    if champion_right is None:
        return Verdict(True, f"it reads {accuracy:.2%} of the validation digits right, and there was no champion")
    won, lost = int((right & ~champion_right).sum()), int((champion_right & ~right).sum())
    p = binomtest(won, won + lost, alternative="less").pvalue if won + lost else 1.0
    compared = (
        f"{accuracy:.2%} against the champion's {champion_right.mean():.2%} of the validation digits "
        f"({won} won, {lost} lost, p = {p:.3f})"
    )
    if p < significance:
        return Verdict(False, f"it is worse than the champion: {compared}")
    return Verdict(True, f"it does not lose to the champion: {compared}")


def may_replace(candidate: ModelVersion, champion: ModelVersion | None) -> Verdict | None:
    """The verdict that needs no digits: a model of the tenth never replaces one of the full set."""
    if champion and champion.tags.get("data") == "full" and candidate.tags.get("data") == "tenth":
        return Verdict(False, "it was trained on the bundled tenth, and the champion on the full set")
    return None


def record(candidate: ModelVersion, verdict: Verdict, champion: ModelVersion | None) -> None:
    """Move the aliases if the candidate is promoted, and write the verdict into its tags.

    The verdict comes last: what is cut off before it is judged anew by the next `train`.
    """
    client, version = mlflow.MlflowClient(), str(number(candidate))
    if verdict.promoted:
        if champion:
            client.set_registered_model_alias(MODEL, PREVIOUS, str(number(champion)))
        client.set_registered_model_alias(MODEL, CHAMPION, version)
    client.set_model_version_tag(MODEL, version, "promoted", str(verdict.promoted).lower())
    client.set_model_version_tag(MODEL, version, "verdict", verdict.reason)
    log.info("Version %s is %s: %s.", version, "champion" if verdict.promoted else "not promoted", verdict.reason)


def rollback() -> tuple[ModelVersion, ModelVersion]:
    """Exchange `champion` and `previous`; a second rollback takes the first one back.

    Returns:
        The new and the former champion.

    Raises:
        RegistryError: there is no previous version.
    """
    champion, previous = by_alias(CHAMPION), by_alias(PREVIOUS)
    if champion is None or previous is None:
        raise RegistryError(f"{MODEL} has no previous version to go back to; see `python -m pipeline status`.")
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(MODEL, CHAMPION, str(number(previous)))
    client.set_registered_model_alias(MODEL, PREVIOUS, str(number(champion)))
    return previous, champion


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
