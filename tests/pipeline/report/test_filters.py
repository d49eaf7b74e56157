import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.dataset import MNIST, DataSet
from pipeline.networks import MNISTConvNet, Network, VGGNet, normalise
from pipeline.report import filters as layers
from pipeline.report.style import render


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def tiles(figure: Figure) -> list[NDArray[np.float32]]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


@pytest.fixture
def first(network: Network) -> Tensor:
    return network.get_parameter("convolutions.0.weight").detach()


@pytest.fixture
def ten(tenth: DataSet) -> Tensor:
    """Return a test digit of each class."""
    test = tenth.read_test()
    return test.images[[int((test.labels == digit).nonzero()[0]) for digit in range(10)]]


def examine(network: Network, digits: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        maps = network.eval().examine(normalise(digits, MNIST))[1]
    return [layer.clone() for layer in maps]


def test_filters_form_a_grid_of_4_by_8_on_one_scale_with_the_strongest_first(first: Tensor) -> None:
    figure = layers.draw_filters(first)
    grid = tiles(figure)
    assert len(grid) == 32
    norms = [float(np.linalg.norm(kernel)) for kernel in grid]
    assert norms == sorted(norms, reverse=True)
    for name, kernel in zip(words(figure), grid, strict=True):
        np.testing.assert_array_equal(kernel, first[int(name.removeprefix("filter ")), 0].numpy())
    lefts, tops = ({round(image.get_extent()[side], 3) for image in figure.axes[0].images} for side in (0, 3))
    assert (len(lefts), len(tops)) == (8, 4)
    reach = float(first.abs().max())
    assert {image.get_clim() for image in figure.axes[0].images} == {(-reach, reach)}


def test_many_filters_are_cut_to_the_strongest_with_their_number_in_the_title() -> None:
    figure = layers.draw_filters(torch.randn(200, 1, 5, 5))
    assert len(tiles(figure)) == 64
    assert "64 of 200" in figure.texts[0].get_text()
    assert render(figure)


def test_growth_shows_the_same_filters_at_each_epoch(first: Tensor) -> None:
    growth = {0: torch.randn(first.shape) / 10, 1: first / 2, 4: first}
    figure = layers.draw_growth(growth)
    assert words(figure)[:2] == ["start", "filter " + str(int(first.flatten(1).norm(dim=1).argmax()))]
    assert [word for word in words(figure) if "epoch" in word] == ["1 epoch", "4 epochs"]
    grid = tiles(figure)
    assert len(grid) == 3 * 8
    strongest = first.flatten(1).norm(dim=1).argsort(descending=True)[:8].tolist()
    for column, weights in enumerate(growth.values()):
        for row, number in enumerate(strongest):
            np.testing.assert_array_equal(grid[8 * column + row], weights[number, 0].numpy())
    assert len({image.get_clim() for image in figure.axes[0].images}) == 1


def test_second_layer_shows_the_main_inputs_of_each_strong_filter(
    network: Network, first: Tensor, tenth: DataSet
) -> None:
    second = network.get_parameter("convolutions.1.weight").detach()
    digits = tenth.read_test().images[:100]
    figure = layers.draw_second_layer(first, second, digits, examine(network, digits)[1])
    strongest = int(second.flatten(1).norm(dim=1).argmax())
    read = second[strongest].flatten(1).norm(dim=1).argsort(descending=True)[: layers.KERNELS]
    assert f"filter\n{strongest}" == words(figure)[2]
    assert words(figure)[3 : 3 + layers.KERNELS] == [str(number) for number in read.tolist()]
    shown = tiles(figure)
    np.testing.assert_array_equal(shown[0], first[read[0], 0].numpy())
    np.testing.assert_array_equal(shown[1], second[strongest, read[0]].numpy())
    assert len(shown) == layers.SECOND * (2 * layers.KERNELS + layers.PATCHES)


@pytest.mark.parametrize(
    "network",
    [
        MNISTConvNet(MNIST, filters=(4, 6)),
        MNISTConvNet(MNIST, filters=(4, 6), kernel_size=5),
        MNISTConvNet(MNIST, filters=(4, 6), kernel_size=1),
        VGGNet(MNIST, blocks=((4, 6), (8,))),
        VGGNet(MNIST, blocks=((4,), (6, 8)), first_kernel_size=5),
    ],
    ids=["3x3", "5x5", "1x1", "not pooled", "pooled, 5x5"],
)
def test_patch_is_the_receptive_field_of_the_second_layer(network: Network, tenth: DataSet) -> None:
    torch.manual_seed(0)
    digits = tenth.read_test().images[:20]
    maps = examine(network, digits)[1]
    sides = [convolution.get_parameter("weight").shape[-1] for convolution in network.convolutions][:2]
    patches = layers.find_patches(digits, maps[:, 2], sides[0], sides[1], 3)
    best, places = maps[:, 2].flatten(1).max(dim=1)
    digit = int(best.argmax())
    row, column = divmod(int(places[digit]), maps.shape[-1])
    seen, before = layers.receptive_field(sides[0], sides[1], 28 // maps.shape[-1])
    top, left = (28 // maps.shape[-1] * place - before for place in (row, column))
    assert patches.shape == (3, seen, seen)
    # Pixels outside the patch do not change the response, and the patch is cut from this position.
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[max(0, top) : top + seen, max(0, left) : left + seen] = True
    other = torch.where(inside, digits[digit], 255 - digits[digit])
    response = examine(network, other[None])[1][0, 2, row, column]
    torch.testing.assert_close(response, best[digit])
    cut = digits[digit][max(0, top) : top + seen, max(0, left) : left + seen]
    assert int(patches[0].sum()) == int(cut.sum())


def test_feature_maps_show_every_layer_with_one_row_per_digit(network: Network, ten: Tensor) -> None:
    maps = examine(network, ten)
    figure = layers.draw_feature_maps(ten, maps)
    shown = tiles(figure)
    assert len(shown) == 10 + 10 * 14
    np.testing.assert_array_equal(shown[3], ten[3].numpy())
    assert words(figure)[0] == "layer 1: 7 of 32 filters"
    channel = int(words(figure)[1])
    for row in range(10):
        np.testing.assert_array_equal(shown[10 + row], maps[0][row, channel].numpy())
    assert "layer 2: 7 of 64 filters" in words(figure)


def test_uniform_feature_map_is_not_chosen(ten: Tensor) -> None:
    maps = torch.zeros(10, 20, 28, 28)
    maps[:, 3] = 1000.0
    maps[:, 7, 5:9] = 1.0
    assert "7" in words(layers.draw_feature_maps(ten, [maps]))
    assert "3" not in words(layers.draw_feature_maps(ten, [maps]))


@pytest.mark.parametrize("depth", [1, 3, 5, 16])
def test_feature_maps_of_any_number_of_layers_lie_within_the_picture(depth: int, ten: Tensor) -> None:
    torch.manual_seed(0)
    maps = examine(VGGNet(MNIST, blocks=((6,) * depth,)), ten)
    figure = layers.draw_feature_maps(ten, maps)
    assert max(image.get_extent()[1] for image in figure.axes[0].images) <= 10.0
    assert sum(word.startswith("layer ") for word in words(figure)) == depth
    assert render(figure)


def test_feature_maps_of_zeros_can_be_drawn(ten: Tensor) -> None:
    assert render(layers.draw_feature_maps(ten, [torch.zeros(10, 4, 28, 28)]))
    assert render(
        layers.draw_second_layer(torch.zeros(4, 1, 3, 3), torch.zeros(2, 4, 3, 3), ten, torch.zeros(10, 2, 14, 14))
    )
