"""MLflow: runs and the model registry; the only room that imports mlflow."""
