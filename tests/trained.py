"""Train the network of the tests: `python -m tests.trained FILE`, the same on every x86-64 processor."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.data import mnist
from pipeline.recipes import RECIPES
from pipeline.training.loop import train
from pipeline.training.run import Run

# Arithmetic that processors of different kinds have in common. With each kind's own, some tests of accuracy would
# depend on the machine.
ALIKE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
}
# Good enough for tests in seconds: without augmentation and averaging the network learns the tenth fast.
QUICK = replace(RECIPES["chapter"], name="quick", batch_size=64, learning_rate=3e-3, one_cycle=True)
TRAINED = replace(QUICK, epochs=4)

if __name__ == "__main__":
    tenth = mnist.load("tenth", None, Path())
    torch.save(train(Run(TRAINED, 1, tenth, torch.device("cpu"))).network.state_dict(), sys.argv[1])
