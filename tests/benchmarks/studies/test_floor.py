import torch

from benchmarks.studies.floor import kept_bytes
from pipeline.recipes import RECIPES

CPU = torch.device("cpu")


def test_bytes_kept_of_the_dense_network_are_pixels_hidden_units_and_answers() -> None:
    kept = kept_bytes(RECIPES["dense"], 16, CPU, torch.float32)
    assert 4 * (784 + 128 + 10) <= kept <= 4 * (784 + 128 + 10) + 100  # and the labels, and what is the batch's


def test_half_the_precision_keeps_fewer_bytes() -> None:
    full, half = (kept_bytes(RECIPES["default"], 128, CPU, kind) for kind in (torch.float32, torch.bfloat16))
    assert half < 0.7 * full
