"""The content of MLflow after a comparison, whatever happened to its workers."""

from collections import Counter

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID


def assert_all_runs_are_whole(client: MlflowClient, runs: int, epochs: int) -> None:
    """One finished run for each plan, a part of the only comparison, with each epoch once."""
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    found = client.search_runs([experiment.experiment_id])
    (whole,) = [run for run in found if run.info.run_name == "comparison"]
    parts = [run for run in found if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == whole.info.run_id]
    assert len(parts) == runs == len(found) - 1
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in parts:
        steps = Counter(metric.step for metric in client.get_metric_history(run.info.run_id, "train_loss"))
        assert steps == Counter(range(1, epochs + 1))
