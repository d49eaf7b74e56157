"""The aliases mean what they say after every cut of a promotion or a rollback, and after a deletion."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from pipeline import promotion
from pipeline.__main__ import main
from pipeline.tracking import registry
from tests.pipeline.conftest import Done

pytestmark = pytest.mark.slow

LENIENT = ["--subset", "tenth", "--minimum-accuracy", "0.5", "--significance", "0.000001"]
STRICT = ["--subset", "tenth", "--minimum-accuracy", "1"]
WRITES = [
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "delete_model_version_tag",
    "update_model_version",
]


class Killed(BaseException):
    """Nothing in the pipeline catches it."""


@pytest.fixture
def three(state: Path, linear_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """Three equal versions: 1 is previous, 2 is champion, 3 is not judged."""
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(state))
    client = mlflow.MlflowClient(f"sqlite:///{state}/mlflow.db")
    client.create_registered_model("digits")
    for number in ("1", "2", "3"):
        (state / number).mkdir()
        shutil.copy(linear_model, state / number / "model.onnx")
        client.create_model_version("digits", (state / number).as_uri(), tags={"data": "tenth"})
    yield client


def promote_first_two(command: Callable[..., Done]) -> None:
    for number in ("1", "2"):
        assert command("promote", "--version", number, *LENIENT).returncode == 0


def aliases() -> dict[str, str]:
    found = mlflow.MlflowClient().get_registered_model("digits").aliases
    return {alias: str(number) for alias, number in found.items()}


def cut(monkeypatch: pytest.MonkeyPatch, after: int, arguments: list[str]) -> bool:
    """Run a command that is cut off before its write number `after`; return whether it was."""
    written = 0
    with monkeypatch.context() as patch:
        for name in WRITES:
            original = getattr(mlflow.MlflowClient, name)

            def counted(*given: object, original: Callable[..., object] = original) -> object:
                nonlocal written
                if written == after:
                    raise Killed
                written += 1
                return original(*given)

            patch.setattr(mlflow.MlflowClient, name, counted)
        try:
            main(arguments)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("again", [LENIENT, STRICT], ids=["same minimum", "stricter minimum"])
def test_promotion_that_was_cut_off(
    three: mlflow.MlflowClient,
    command: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    again: list[str],
) -> None:
    promote_first_two(command)
    was_cut = cut(monkeypatch, after, ["promote", "--version", "3", *LENIENT])
    assert was_cut == (after < 6)
    repeated = command("promote", "--version", "3", *again)
    tags = registry.get(3).tags
    assert promotion.is_judged(registry.get(3))
    if repeated.returncode == 0:
        assert aliases() == {"champion": "3", "previous": "2"}
        assert tags["promoted"] == "true"
        assert registry.get(3).description.endswith(f"Promoted: {tags['verdict']}.")
    else:
        assert again is STRICT
        assert aliases() == {"champion": "2", "previous": "1"}
        assert tags["promoted"] == "false"
        assert registry.get(3).description.endswith(f"Not promoted: {tags['verdict']}.")


@pytest.mark.parametrize("after", range(4))
def test_rollback_that_was_cut_off(
    three: mlflow.MlflowClient, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    promote_first_two(command)
    was_cut = cut(monkeypatch, after, ["rollback"])
    assert was_cut == (after < 3)
    if was_cut:
        done = command("rollback")
        assert done.returncode == 0
        assert done.log[-1] == "Version 1 is champion again; version 2 is previous."
    assert aliases() == {"champion": "1", "previous": "2"}


def test_cut_rollback_is_completed_by_the_next_promotion(
    three: mlflow.MlflowClient, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_first_two(command)
    assert cut(monkeypatch, 2, ["rollback"])
    assert aliases() == {"champion": "1", "previous": "1"}
    assert command("promote", "--version", "3", *STRICT).returncode == 1
    assert aliases() == {"champion": "1", "previous": "2"}


def test_equal_aliases_of_an_earlier_release_are_nothing_to_go_back_to(
    three: mlflow.MlflowClient, command: Callable[..., Done]
) -> None:
    three.set_registered_model_alias("digits", "champion", "2")
    three.set_registered_model_alias("digits", "previous", "2")
    done = command("rollback")
    assert done.returncode == 1
    assert done.log[-1].startswith("digits has no previous version to go back to")
    assert aliases() == {"champion": "2"}


def test_deleted_champion_is_replaced_by_the_previous_one(
    three: mlflow.MlflowClient, command: Callable[..., Done]
) -> None:
    promote_first_two(command)
    three.delete_model_version("digits", "2")
    done = command("rollback")
    assert done.returncode == 0
    assert done.log[-1] == "Version 1 is champion again; there is no version before it."
    assert aliases() == {"champion": "1"}
    again = command("rollback")
    assert again.returncode == 1
    assert again.log[-1].startswith("digits has no previous version to go back to")


def test_previous_version_may_be_promoted_by_number(three: mlflow.MlflowClient, command: Callable[..., Done]) -> None:
    promote_first_two(command)
    assert command("promote", "--version", "1", *LENIENT).returncode == 0
    assert aliases() == {"champion": "1", "previous": "2"}
    three.delete_model_version("digits", "1")
    assert command("promote", "--version", "2", *LENIENT).returncode == 0
    assert aliases() == {"champion": "2"}
    assert "and there was no champion" in registry.get(2).tags["verdict"]


def test_champion_is_not_judged_again(three: mlflow.MlflowClient, command: Callable[..., Done]) -> None:
    three.set_registered_model_alias("digits", "champion", "3")  # by hand
    done = command("promote", "--version", "3", *STRICT)
    assert done.returncode == 0
    assert done.log[-1] == "Version 3 is already champion."
    assert aliases() == {"champion": "3"}
