import torch

from pipeline.data.dataset import DataSet
from pipeline.recipes import Augmentation
from pipeline.training.augmentation import distort, thicken


def test_zero_bounds_change_nothing(tenth: DataSet) -> None:
    images = tenth.train.images[:64].float()
    torch.testing.assert_close(distort(images, Augmentation(), torch.Generator()), images, atol=1e-2, rtol=0)


def test_shift_moves_ink_by_at_most_its_bound() -> None:
    dots = torch.zeros(500, 28, 28)
    dots[:, 14, 14] = 255.0
    moved = distort(dots, Augmentation(shift=3), torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    ink = moved.sum(dim=(1, 2))
    for axis in (rows, columns):
        offset = (moved * axis).sum(dim=(1, 2)) / ink - 14
        assert 2.5 < offset.abs().max() <= 3.01
        assert abs(offset.mean()) < 0.3


def test_scale_changes_the_area() -> None:
    squares = torch.zeros(500, 28, 28)
    squares[:, 8:20, 8:20] = 255.0
    area = distort(squares, Augmentation(scale=0.2), torch.Generator().manual_seed(0)).sum(dim=(1, 2)) / 255
    assert 0.8**2 * 144 - 1 < area.min() < 105
    assert 190 < area.max() < 1.2**2 * 144 + 4  # edges are smoothed


def test_rotation_keeps_the_area_and_turns_both_ways() -> None:
    bars = torch.zeros(200, 28, 28)
    bars[:, 6:22, 13:15] = 255.0
    turned = distort(bars, Augmentation(rotation=30), torch.Generator().manual_seed(0))
    assert ((turned.sum(dim=(1, 2)) / 255 - 32).abs() < 2).all()
    leaning = turned[:, 6:10, :13].sum(dim=(1, 2)) - turned[:, 6:10, 15:].sum(dim=(1, 2))
    assert (leaning > 255).any()
    assert (leaning < -255).any()


def test_each_digit_is_distorted_differently_and_reproducibly(tenth: DataSet) -> None:
    same = tenth.train.images[:1].float().expand(8, 28, 28)
    bounds = Augmentation(10, 0.1, 8, 2)
    once, again = (distort(same, bounds, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again)
    assert len({image.numpy().tobytes() for image in once}) == 8


def test_stroke_edges_move_by_one_pixel() -> None:
    bars = torch.zeros(3, 1, 28, 28)
    bars[:, :, 6:22, 12:16] = 200.0
    thinned, same, grown = thicken(bars, torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.equal(same, bars[0])
    assert torch.equal(thinned.nonzero().aminmax(dim=0).max, torch.tensor([0, 20, 14]))
    assert torch.equal(grown.nonzero().aminmax(dim=0).min, torch.tensor([0, 5, 11]))
    assert grown.unique().tolist() == thinned.unique().tolist() == [0, 200]


def test_thickness_grows_and_shrinks_strokes_within_the_pixel_range() -> None:
    bars = torch.zeros(500, 28, 28)
    bars[:, 6:22, 12:16] = 255.0
    drawn = distort(bars, Augmentation(thickness=0.5), torch.Generator().manual_seed(0))
    width = drawn[:, 14].sum(dim=1) / 255
    assert 3 < width.min() < 3.1
    assert 4.9 < width.max() < 5
    assert drawn.min() > -0.01
    assert drawn.max() < 255.01


def test_half_of_the_pictures_are_mirrored() -> None:
    marked = torch.zeros(400, 4, 6)
    marked[:, 1, 0] = 255.0
    drawn = distort(marked, Augmentation(flip=True), torch.Generator().manual_seed(0))
    assert 150 < (drawn[:, 1, 0] == 255).sum() < 250
    assert torch.equal(drawn[:, 1, 0] + drawn[:, 1, 5], torch.full((400,), 255.0))


def test_colours_move_together() -> None:
    bounds = Augmentation(rotation=20, scale=0.2, shear=5, shift=3, thickness=0.5, flip=True)
    grey = torch.rand(50, 20, 20) * 255
    coloured = distort(grey.unsqueeze(-1).expand(-1, -1, -1, 3), bounds, torch.Generator().manual_seed(0))
    alone = distort(grey, bounds, torch.Generator().manual_seed(0))
    for channel in range(3):
        torch.testing.assert_close(coloured[..., channel], alone)


def test_padding_repeats_the_border() -> None:
    white = torch.full((50, 12, 12), 255.0)
    bounds = Augmentation(shift=4)
    assert distort(white, bounds, torch.Generator(), "zeros").min() == 0
    torch.testing.assert_close(distort(white, bounds, torch.Generator(), "border"), white)
