"""Which operators the time of a training step goes to: `python -m benchmarks.studies.operators [--recipe default]`.

Trains for some steps under torch's profiler, in the real loop, and prints each kind of work with its share of the time
of the thread that starts all operators, as a Markdown table. It waits there for the others, so it counts them in.
"""

import argparse
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does, before torch is imported
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipeline.data import mnist as data
from pipeline.data.dataset import Digits
from pipeline.recipes import Recipe, find
from pipeline.training.devices import describe_device
from pipeline.training.loop import Epoch, train

SKIPPED, PROFILED = 10, 25  # steps

# Each kind of work, by the operators in which it is seen, with all that these call.
KINDS = {
    "convolutions, forward": ("aten::convolution",),
    "convolutions, backward": ("aten::convolution_backward",),
    "pooling, forward": ("aten::max_pool2d_with_indices",),
    "pooling, backward": ("aten::max_pool2d_with_indices_backward",),
    "linear layers": ("aten::addmm", "aten::mm"),
    "ReLU": ("aten::relu", "aten::threshold_backward"),
    "batch normalisation": ("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    "augmentation": ("aten::rand", "aten::affine_grid_generator", "aten::grid_sampler_2d"),
    "loss": ("aten::cross_entropy_loss", "aten::nll_loss_backward", "aten::_log_softmax_backward_data"),
    "optimizer": ("Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad"),
    "averaging of weights": ("aten::_foreach_lerp_",),
}


class Profiled:
    """A reporter that has some steps profiled and then ends training."""

    def __init__(self) -> None:
        self._steps = 0
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        """Nothing: training never goes on."""

    def step(self, images: int, loss: Tensor) -> None:
        """Begin to profile when all is warm, and end it."""
        self._steps += 1
        if self._steps == SKIPPED:
            self.profile.start()
        elif self._steps == SKIPPED + PROFILED:
            self.profile.stop()
            raise KeyboardInterrupt

    def epoch(self, epoch: Epoch) -> None:
        """Nothing: the steps are within one epoch."""


def shares(recipe: Recipe) -> tuple[dict[str, float], float]:
    """Shares of the time of a training step on the CPU by kind of work, the largest first, and milliseconds a step."""
    tenth = data.load("tenth", None, Path("unused"))
    times = math.ceil((SKIPPED + PROFILED) * recipe.batch_size / len(tenth.train))  # all within one epoch
    digits = Digits(tenth.train.images.repeat(times, 1, 1), tenth.train.labels.repeat(times))
    reporter = Profiled()
    with suppress(KeyboardInterrupt):
        train(recipe, 1, digits, tenth.validation, torch.device("cpu"), 1, [reporter])
    averages = reporter.profile.key_averages()
    total = sum(each.self_cpu_time_total for each in averages)
    found = {
        kind: sum(each.cpu_time_total for each in averages if each.key in operators) / total
        for kind, operators in KINDS.items()
    }
    found["the rest: cutting out batches, changes of type, Python"] = 1 - sum(found.values())
    return dict(sorted(found.items(), key=lambda item: -item[1])), total / PROFILED / 1e3


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=find, default="default", help="a recipe's name, or a TOML file")
    recipe = parser.parse_args().recipe
    found, milliseconds = shares(recipe)
    print(f"`{recipe.name}`, torch {torch.__version__}, {describe_device(torch.device('cpu'))}")
    print(f"\n| kind of work | share of {milliseconds:.1f} ms a step |\n|---|---|")
    for kind, share in found.items():
        if share:
            print(f"| {kind} | {share:.0%} |")


if __name__ == "__main__":
    main()
