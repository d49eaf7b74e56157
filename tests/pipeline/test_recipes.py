from pathlib import Path

import pytest

from pipeline.recipes import RECIPES, MNISTConvNet, RecipeError, find


def written(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_recipe_of_the_project_is_found_by_name() -> None:
    assert find("default") is RECIPES["default"]
    assert all(name == recipe.name and recipe.about.endswith(".") for name, recipe in RECIPES.items())


def test_recipe_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    text = """
        epochs = 3
        learning_rate = 0.002
        network = { name = "MNISTConvNet", filters = [16, 32, 64] }
        augmentation = { rotation = 5 }
    """
    recipe = find(written(tmp_path, text))
    assert (recipe.name, recipe.epochs, recipe.learning_rate, recipe.batch_size) == ("mine", 3, 0.002, 16)
    assert recipe.network == MNISTConvNet(filters=(16, 32, 64))
    assert recipe.augmentation.rotation == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch = 3", "epoch: unexpected keyword argument"),
        ("epochs = -1", "epochs: input should be greater than or equal to 1"),
        ("epochs = 2.5", "epochs: input should be a valid integer"),
        ("learning_rate = nan", "learning_rate: input should be"),
        ("averaging = 1.0", "averaging: input should be less than 1"),
        ("[network]\nname = 'LeNet'", "network.name: must be one of MNISTConvNet, DenseNet, VGGNet"),
        ("[network]\nkernel_size = 4", "network.kernel_size: input should be 1, 3, 5 or 7"),
        ("[network]\nfilters = [1, 2, 3, 4, 5]", "network.filters: tuple should have at most 4 items"),
        ("[augmentation]\nflip = 1", "augmentation.flip: unexpected keyword argument"),
        ("name = 'default'", "name: default is a recipe of the project; give yours another"),
        ("epochs: 3", "the file is not TOML"),
    ],
)
def test_field_that_is_unknown_or_cannot_be_is_named(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        find(written(tmp_path, text))
    assert told in str(raised.value)
    assert raised.value.exit_code == 2


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the file cannot be read: No such file"):
        find(str(tmp_path / "nothing.toml"))
