import re
from pathlib import Path

import pytest

from pipeline.arguments import read
from pipeline.recipes import RECIPES
from pipeline.settings import (
    COMMAND_SETTINGS,
    CompareSettings,
    ExportSettings,
    RestoreSettings,
    RollbackSettings,
    TrainSettings,
    WrongSettingError,
)


def train(*flags: str) -> TrainSettings:
    return read(TrainSettings, list(flags), "train")


def compare(*flags: str) -> CompareSettings:
    return read(CompareSettings, list(flags), "compare")


def test_defaults_just_work() -> None:
    settings = train()
    assert (settings.recipe, settings.seed, settings.device, settings.subset) == ("default", 1, "auto", "auto")
    assert not settings.fresh


def test_flags_win_over_variables_and_variables_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_SEED", "2")
    monkeypatch.setenv("PIPELINE_RECIPE", "dense")
    monkeypatch.setenv("MNIST_DIR", "/digits")
    settings = train("--seed", "3")
    assert (settings.seed, settings.recipe, settings.mnist_dir) == (3, "dense", Path("/digits"))


def test_earlier_name_of_the_subset_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("--data", "tenth").subset == train("--data=tenth").subset == "tenth"
    monkeypatch.setenv("PIPELINE_DATA", "tenth")
    assert train().subset == "tenth"
    monkeypatch.setenv("PIPELINE_SUBSET", "full")
    assert train().subset == "full"


def test_folder_of_a_data_set_is_read_without_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_DIR", "/fashion")
    monkeypatch.setenv("PIPELINE_DATASET", "fashion-mnist")
    assert (train().dataset, train().dataset_dir) == ("fashion-mnist", Path("/fashion"))


def test_flags_of_one_command_have_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM", "me@localhost")
    with pytest.raises(WrongSettingError, match="--from is missing"):
        read(RestoreSettings, [], "restore")
    for name in ("PIPELINE_YES", "PIPELINE_VERSION", "PIPELINE_TO", "PIPELINE_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            with pytest.raises(WrongSettingError, match=f"There is no setting {name}"):
                read(RollbackSettings, [], "rollback")


def test_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_FRESH", "")
    monkeypatch.setenv("MNIST_DIR", "")
    assert not train().fresh
    assert train().mnist_dir is None


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PIPELINE_RECIPE", "defualt", "PIPELINE_RECIPE (--recipe) cannot be 'defualt': there is no such recipe"),
        ("PIPELINE_DEVICE", "tpu", "PIPELINE_DEVICE (--device) cannot be 'tpu': Input should be 'auto', 'cuda'"),
        ("PIPELINE_SUBSET", "half", "PIPELINE_SUBSET (--subset) cannot be 'half': Input should be 'auto', 'full' or"),
        ("PIPELINE_DATA", "half", "PIPELINE_SUBSET (--subset) cannot be 'half': Input should be 'auto', 'full' or"),
        (
            "PIPELINE_DATASET",
            "fashoin",
            "PIPELINE_DATASET (--dataset) cannot be 'fashoin': there is no data set of that",
        ),
        ("PIPELINE_SIZE", "7", "PIPELINE_SIZE (--size) cannot be '7': Input should be greater than or equal to 8"),
        ("PIPELINE_SEED", "-1", "PIPELINE_SEED (--seed) cannot be '-1': Input should be greater than or equal to 0"),
        ("PIPELINE_SEED", "one", "PIPELINE_SEED (--seed) cannot be 'one': Input should be a valid integer"),
        ("PIPELINE_MINIMUM_ACCURACY", "98", "PIPELINE_MINIMUM_ACCURACY (--minimum-accuracy) cannot be '98'"),
        ("PIPELINE_RECIPEE", "dense", "There is no setting PIPELINE_RECIPEE: did you mean PIPELINE_RECIPE?"),
        (
            "PIPELINE_XYZZY",
            "1",
            "There is no setting PIPELINE_XYZZY: the settings are: DATASET_DIR, MNIST_DIR, PIPELINE_CLUSTER",
        ),
    ],
)
def test_wrong_setting_is_refused_by_name(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(WrongSettingError) as raised:
        train()
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("flags", [("--recipes", "dense", "chapter"), ("--recipes", "dense,chapter")])
def test_recipes_to_compare_stand_with_spaces_or_commas_between(flags: tuple[str, ...]) -> None:
    assert compare(*flags, "--seeds", "2").recipes == ("dense", "chapter")


def test_all_recipes_are_compared_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (compare().recipes, compare().seeds) == (tuple(RECIPES), 3)
    monkeypatch.setenv("PIPELINE_RECIPES", "dense, default")
    assert compare().recipes == ("dense", "default")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--recipes", "dense", "defualt"],
            "PIPELINE_RECIPES (--recipes) cannot be 'defualt': there is no such recipe",
        ),
        (["--recipes", "dense", "dense"], "cannot be 'dense,dense': dense is listed more than once"),
        (["--recipes", "one/mine.toml", "other/mine.toml"], "mine is listed more than once"),
        (["--recipes"], "PIPELINE_RECIPES (--recipes) cannot be []"),
        (["--seeds", "0"], "PIPELINE_SEEDS (--seeds) cannot be '0': Input should be greater than or equal to 1"),
    ],
)
def test_wrong_comparison_is_refused_by_name(
    flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "other"):
        Path(folder).mkdir()
        Path(folder, "mine.toml").write_text("epochs = 1")
    with pytest.raises(WrongSettingError) as raised:
        compare(*flags)
    assert told in str(raised.value)


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(WrongSettingError, match="--bogus"):
        train("--bogus", "1")


def test_required_flag_is_asked_for() -> None:
    with pytest.raises(WrongSettingError, match="--to is missing"):
        read(ExportSettings, [], "export")
    assert read(ExportSettings, ["--to", "model.onnx"], "export").to == Path("model.onnx")


def test_help_tells_flag_meaning_default_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        train("--help")
    assert exited.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "--seed N Random seed of the weights, the order and the augmentation. (default: 1) [env: PIPELINE_SEED]" in told
    )
    assert "--state-dir PATH Output directory" in told
    assert "chapter, dense, third-block, kernel-5x5, dropout, default, compact, best, or a TOML file" in told


def test_help_shows_no_python_types(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (TrainSettings, CompareSettings, ExportSettings, RollbackSettings):
        with pytest.raises(SystemExit):
            read(kind, ["--help"], "command")
        told = capsys.readouterr().out
        assert not re.search(r"\b(tuple|str|int|float|None \||Path)\b", told.replace("(default: None)", "")), told


def test_every_field_has_a_description() -> None:
    for kind in COMMAND_SETTINGS:
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"
