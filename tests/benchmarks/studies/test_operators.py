import pytest

from benchmarks.studies.operators import KINDS, shares
from pipeline.recipes import RECIPES


def test_the_shares_are_those_of_the_network_and_make_a_whole() -> None:
    found, milliseconds = shares(RECIPES["default"])
    assert milliseconds > 0
    assert sum(found.values()) == pytest.approx(1)
    assert all(share >= 0 for share in found.values())
    used = {kind for kind, share in found.items() if share}
    assert used == {*KINDS, "the rest: cutting out batches, changes of type, Python"} - {"batch normalisation"}
