"""Checks of an embedded store: they must hold after every command."""

import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.__main__ import COMMANDS

TAGS = {
    "recipe",
    "dataset",
    "subset",
    "fingerprint",
    "validation_accuracy",
    "test_accuracy",
    "sha256",
    "verdict",
    "promoted",
}
EPOCHS = 2


class Store:
    """Questions to the database of a state folder, and the checks that must hold."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.state / "mlflow.db")) as database:
            return database.execute(question).fetchall()

    def aliases(self) -> dict[str, int]:
        return dict(self.ask("SELECT alias, version FROM registered_model_aliases"))

    def tags(self, version: int) -> dict[str, str]:
        return dict(self.ask(f"SELECT key, value FROM model_version_tags WHERE version = {version}"))

    def check(self) -> None:
        """Check versions, files, aliases, runs and metrics."""
        self._check_versions()
        self._check_runs()
        left = [*self.state.glob("*.lock"), *self.state.rglob("*.partial"), *self.state.glob("checkpoints/*")]
        assert left == []

    def _check_versions(self) -> None:
        versions = self.ask("SELECT version, storage_location FROM model_versions WHERE current_stage = 'None'")
        marks = Counter(self.tags(version)["fingerprint"] for version, _ in versions)
        assert [mark for mark, count in marks.items() if count > 1] == [], "a training was registered twice"
        for version, place in versions:
            tags = self.tags(version)
            assert tags.keys() >= TAGS, f"version {version} is half registered"
            content = (Path(place.removeprefix("file://")) / "model.onnx").read_bytes()
            assert hashlib.sha256(content).hexdigest() == tags["sha256"]
        aliases = self.aliases()
        assert len(set(aliases.values())) == len(aliases), f"equal aliases: {aliases}"
        assert self.tags(aliases["champion"])["promoted"] == "true"

    def _check_runs(self) -> None:
        runs = dict(self.ask("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
        steps = self.ask("SELECT run_uuid, step FROM metrics WHERE key = 'train_loss' ORDER BY step")
        of_run = {run: [step for owner, step in steps if owner == run] for run in runs}
        tested = {run for (run,) in self.ask("SELECT run_uuid FROM latest_metrics WHERE key = 'test_accuracy'")}
        assert [run for run, seen in of_run.items() if len(seen) != len(set(seen))] == [], "an epoch came twice"
        finished = {run for run, status in runs.items() if status == "FINISHED"}
        for run in finished & tested:
            assert of_run[run] == list(range(1, EPOCHS + 1))
        marks = Counter(mark for run, mark in self.ask("SELECT run_uuid, value FROM tags WHERE key = 'fingerprint'")
                        if run in finished)  # fmt: skip
        assert [mark for mark, count in marks.items() if count > 1] == [], "a training or comparison finished twice"
        if "publish" in COMMANDS:  # which delivers what a killed command left, and ends its runs
            assert [run for run, status in runs.items() if status == "RUNNING"] == []
            models = self.ask("SELECT model_id FROM logged_models WHERE lifecycle_stage = 'active'")
            registered = {
                source.removeprefix("models:/") for (source,) in self.ask("SELECT source FROM model_versions")
            }
            assert [model for (model,) in models if model not in registered] == []
