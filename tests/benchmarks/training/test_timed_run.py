"""The arithmetic of our side of the comparison."""

import torch

from benchmarks.training.timed_run import multiplications, operations
from tests.trained import QUICK


def test_operations_of_chapter_network_match_count_by_hand() -> None:
    first, second, hidden, output = 28 * 28 * 32 * 9, 14 * 14 * 64 * 32 * 9, 3136 * 128, 1280
    # forward, gradients of the weights, and gradients of the inputs except the images
    by_hand = 2 * (2 * first + 3 * (second + hidden + output))
    assert operations(QUICK, 64) == by_hand


def test_rate_of_multiplication_is_plausible() -> None:
    assert multiplications(torch.device("cpu"), torch.float32) > 1e8
