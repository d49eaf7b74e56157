import pytest

from benchmarks.studies.operators import KINDS, shares
from pipeline.recipes import RECIPES


def test_shares_cover_the_operators_of_the_network_and_sum_to_one() -> None:
    found, milliseconds = shares(RECIPES["default"])
    assert milliseconds > 0
    assert sum(found.values()) == pytest.approx(1)
    assert all(share >= 0 for share in found.values())
    used = {kind for kind, share in found.items() if share}
    assert used == {*KINDS, "the rest: batch selection, type conversion, Python"} - {"batch normalisation"}
