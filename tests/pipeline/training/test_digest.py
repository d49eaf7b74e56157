"""The weights of two short runs, bit for bit: a change of the code that changes them is noticed here."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pipeline.data import mnist
from pipeline.data.dataset import DataSet
from pipeline.recipes import RECIPES, Recipe, VGGArchitecture
from pipeline.training.loop import train
from pipeline.training.run import Run
from tests.processes import ROOT
from tests.trained import ALIKE

pytestmark = pytest.mark.slow

SMALL = VGGArchitecture(blocks=((8,), (12, 16)), dropout=0.3, first_kernel_size=5)
EVERYTHING = replace(RECIPES["best"], network=SMALL, mixed_precision=False)
RUNS = {"chapter": replace(RECIPES["chapter"], batch_size=64), "everything": EVERYTHING}
# Recorded with torch 2.14.1: "chapter" and "everything" at commit c123183, before the run became a value.
DIGESTS = {
    "chapter": "25a769b4bd5df196f294c0c1b750c3750d24e901ecbf0366fb8c91e3a4205f9b",
    "everything": "bc7bae9e4b61a38f3e3c4219f5cd6532d75a240d58074dd2af4d2c8899b47803",
}


def digest(recipe: Recipe, tenth: DataSet) -> str:
    """SHA-256 over the weights after two epochs on 1,500 digits."""
    few = replace(tenth, train=tenth.train[:1500], validation=tenth.validation[:200])
    recipe = replace(recipe, epochs=2, epochs_on_tenth=None)
    weights = train(Run(recipe, 1, few, torch.device("cpu"))).network.state_dict()
    content = b"".join(
        name.encode() + tensor.contiguous().numpy().tobytes() for name, tensor in sorted(weights.items())
    )
    return hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the digests are those of x86-64 processors")
def test_weights_are_bit_for_bit_those_of_the_recorded_runs() -> None:
    assert torch.__version__.startswith("2.14.1"), "another torch may round differently: record the digests again"
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.training.test_digest"],
        cwd=ROOT, env={**os.environ, **ALIKE}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == DIGESTS


if __name__ == "__main__":
    whole = mnist.load("tenth", None, ROOT)
    print(json.dumps({name: digest(recipe, whole) for name, recipe in RUNS.items()}))
