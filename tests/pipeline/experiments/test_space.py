"""Spaces of recipes: what a file may hold, and which recipes come of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.data.dataset import DataSet
from pipeline.experiments.space import Range, SpaceError, read_space, to_toml
from pipeline.recipes import RECIPES, Augmentation, Habits, RecipeError
from pipeline.training.run import Run


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


SPACE = """
recipe = "best"
[fields]
learning_rate = { low = 1e-3, high = 1e-2, log = true }
epochs = { low = 2, high = 4 }
"augmentation.rotation" = { low = 0.0, high = 15.0 }
"network.dropout" = { low = 0.0, high = 0.5 }
batch_size = [64, 128]
"""


def test_recipe_of_a_trial_differs_from_the_base_in_its_fields_alone(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, SPACE))
    assert space.fields["learning_rate"] == Range(0.001, 0.01, log=True)
    assert [of.is_whole for of in space.fields.values() if isinstance(of, Range)] == [False, True, False, False]
    chosen = {
        "learning_rate": 0.005, "epochs": 3, "augmentation.rotation": 7.5, "network.dropout": 0.25, "batch_size": 1
    }  # fmt: skip
    recipe = space.recipe(chosen, 7)
    assert (recipe.name, recipe.learning_rate, recipe.epochs, recipe.batch_size) == ("mine-7", 0.005, 3, 128)
    assert recipe.augmentation == Augmentation(rotation=7.5, scale=0.15, shear=8, shift=1, thickness=0.5)
    assert recipe.network.dropout == 0.25  # type: ignore[union-attr]
    assert recipe.network.blocks == RECIPES["best"].network.blocks  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the table [fields] is empty; give at least one field a range or a list"),
        ("[fields]\nepochs = 3", "fields.epochs must be a range, such as { low = 1, high = 5 }, or a list of two"),
        ("[fields]\nepochs = [3]", "fields.epochs must be a range"),
        ("[fields]\nepochs = { low = 5, high = 5 }", "low must be below high"),
        ("[fields]\nepochs = { low = 0.0, high = 5.0, log = true }", "with log, low must be above 0"),
        ("fields.epochs = [1, 2]\nseed = 3", "seed is unknown; a space has `recipe` and the table [fields]"),
        ("fields.epochs = ", "is not TOML"),
    ],
)
def test_file_that_is_no_space_is_one_sentence(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as raised:
        read_space(written(tmp_path, text))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("field", "values", "told"),
    [
        ("learning_rat", "[1.0, 2.0]", "no field learning_rat (did you mean learning_rate?)"),
        ("augmentation.bend", "[1.0, 2.0]", "no field augmentation.bend"),
        ("augmentaton.rotation", "[1.0, 2.0]", "no field augmentaton (did you mean augmentation?)"),
        ("epochs.first", "[1, 2]", "epochs has no fields"),
        ("epochs", "{ low = 0, high = 5 }", "epochs: input should be greater than or equal to 1"),
        ("epochs", "{ low = 1.5, high = 5.0 }", "epochs: input should be a valid integer"),
    ],
)
def test_field_that_does_not_take_the_ends_of_its_range_is_named(
    field: str, values: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as raised:
        read_space(written(tmp_path, f'[fields]\n"{field}" = {values}'))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("my space.toml", "use at most 40 letters, digits and . _ -"),
        (f"{'long' * 12}.toml", "use at most 40 letters, digits and . _ -"),
        ("best.toml", "best is a built-in recipe; give the file another name"),
    ],
)
def test_name_that_no_recipe_can_have_is_refused(name: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("fields.epochs = [1, 2]")
    with pytest.raises(SpaceError) as raised:
        read_space(path)
    assert told in str(raised.value)


def test_base_that_is_no_recipe_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"mine\.toml: recipe bset: there is no such recipe"):
        read_space(written(tmp_path, 'recipe = "bset"\n[fields]\nepochs = [1, 2]'))


def test_values_of_a_trial_prevail_over_the_habits_of_the_data(tenth: DataSet, tmp_path: Path) -> None:
    data = replace(tenth, habits=Habits(least_epochs=24, augmentation=Augmentation(flip=True)))
    space = read_space(written(tmp_path, 'recipe = "default"\n[fields]\nepochs = [2, 3]')).on(data)
    run = Run(space.recipe({"epochs": 0}, 1), 1, data, torch.device("cpu"))
    assert run.epochs == 2
    assert run.recipe.augmentation == Augmentation(flip=True)  # no field of the space: as the data set has it
    space = read_space(written(tmp_path, '[fields]\n"augmentation.rotation" = [3.0, 4.0]')).on(data)
    run = Run(space.recipe({"augmentation.rotation": 1}, 1), 1, data, torch.device("cpu"))
    assert run.recipe.augmentation == Augmentation(flip=True, rotation=4.0)
    assert run.epochs == RECIPES["default"].epochs_on_tenth


def test_space_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"none\.toml cannot be read: No such file"):
        read_space(tmp_path / "none.toml")


def test_recipe_as_a_file_has_no_name_and_no_empty_field() -> None:
    content = to_toml(RECIPES["chapter"])
    assert "name" not in content
    assert "epochs_on_tenth" not in content
    assert content["network"]["filters"] == (32, 64)
