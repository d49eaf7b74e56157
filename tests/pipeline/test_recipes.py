import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.recipes import (
    RECIPES,
    Architecture,
    ConvArchitecture,
    DenseArchitecture,
    RecipeError,
    VGGArchitecture,
    find,
)


def written(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_built_in_recipe_is_found_by_name() -> None:
    assert find("default") is RECIPES["default"]
    assert all(name == recipe.name and recipe.about.endswith(".") for name, recipe in RECIPES.items())


def test_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    text = """
        epochs = 3
        learning_rate = 0.002
        network = { name = "MNISTConvNet", filters = [16, 32, 64] }
        augmentation = { rotation = 5 }
    """
    recipe = find(written(tmp_path, text))
    assert (recipe.name, recipe.epochs, recipe.learning_rate, recipe.batch_size) == ("mine", 3, 0.002, 16)
    assert recipe.network == ConvArchitecture(filters=(16, 32, 64))
    assert recipe.augmentation.rotation == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch = 3", "no field epoch (did you mean epochs?)"),
        ("epoch = 3\nlearning_rat = 1", "no field epoch (did you mean epochs?); no field learning_rat (did you mean "),
        ("momentum = 0.9", "no field momentum (the fields are name, about, network, epochs, "),
        ("epochs = -1", "epochs: input should be greater than or equal to 1"),
        ("epochs = 2.5", "epochs: input should be a valid integer"),
        ("learning_rate = nan", "learning_rate: input should be"),
        ("averaging = 1.0", "averaging: input should be less than 1"),
        ("[network]\nname = 'LeNet'", "network.name: must be one of MNISTConvNet, DenseNet, VGGNet"),
        ("[network]\nkernel_size = 4", "network.kernel_size: input should be 1, 3, 5 or 7"),
        ("[network]\nfilters = [1, 2, 3, 4, 5]", "network.filters: tuple should have at most 4 items"),
        ("[network]\nfilter = [8]", "no field network.filter (did you mean filters?)"),
        ("[network]\nname = 'DenseNet'\nfilters = [8]", "no field network.filters (the fields are name)"),
        ("network = 'DenseNet'", "network: input should be a valid dictionary"),
        ("[augmentation]\ntilt = 1", "no field augmentation.tilt (the fields are rotation, scale, shear, shift, "),
        ("[augmentation]\nrotate = 1", "no field augmentation.rotate (did you mean rotation?)"),
        ("name = 'default'", "name: default is a built-in recipe; choose another name"),
        ("epochs: 3", "the file is not TOML"),
        ("name = '../x'", "name: must have letters, digits and . _ - only"),
        ("name = '..'", "name: must have letters, digits and . _ - only"),
        ("name = '[/x]'", "name: must have letters, digits and . _ - only"),
        ('name = "a\\u0000b"', "name: must have letters, digits and . _ - only"),
        ('name = "a\\n"', "name: must have letters, digits and . _ - only"),
        (f"name = '{'x' * 51}'", "name: string should have at most 50 characters"),
        ("epochs = 1000000", "epochs: input should be less than or equal to 10000"),
        ("[network]\nfilters = [1000000000]", "network.filters.0: input should be less than or equal to 1024"),
        ("[network]\nname = 'VGGNet'\nblocks = [[1000000000]]", "network.blocks.0.0: input should be less than or"),
        ("network = 'VGGNet'", "network: input should be a valid dictionary"),
        ("epochs = '3'", "epochs: input should be a valid integer"),
        ("epochs = 3.0", "epochs: input should be a valid integer"),
        ("epochs = true", "epochs: input should be a valid integer"),
        ("learning_rate = '0.1'", "learning_rate: input should be a valid number"),
        ("weight_decay = true", "weight_decay: input should be a valid number"),
        ("one_cycle = 1", "one_cycle: input should be a valid boolean"),
        ("mixed_precision = 'yes'", "mixed_precision: input should be a valid boolean"),
        ("[network]\nfilters = ['8']", "network.filters.0: input should be a valid integer"),
        ("[network]\nkernel_size = '3'", "network.kernel_size: input should be 1, 3, 5 or 7"),
        ("[augmentation]\nrotation = '5'", "augmentation.rotation: input should be a valid number"),
    ],
)
def test_invalid_field_is_named(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        find(written(tmp_path, text))
    assert expected in str(raised.value)
    assert raised.value.exit_code == 2


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the file cannot be read: No such file"):
        find(str(tmp_path / "nothing.toml"))


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("", ConvArchitecture()),
        ("network = { kernel_size = 5 }", ConvArchitecture(kernel_size=5)),
        ("network = { name = 'DenseNet' }", DenseArchitecture()),
        ("network = { name = 'VGGNet', blocks = [[8], [16]] }", VGGArchitecture(blocks=((8,), (16,)))),
    ],
)
def test_network_is_chosen_by_its_name(text: str, network: Architecture, tmp_path: Path) -> None:
    assert find(written(tmp_path, text)).network == network


def test_settings_are_read_without_importing_torch() -> None:
    code = "import sys, pipeline.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
