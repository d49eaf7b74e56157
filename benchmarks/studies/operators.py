"""Share of each operator in the time of a training step: `python -m benchmarks.studies.operators [--recipe default]`.

How it is measured: the training loop runs 25 steps on the CPU under torch's profiler, after a warm-up. Shares are those
of the main thread, which starts each operator and waits for the other threads. Prints a Markdown table.
"""

import argparse
import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # the command line's setting; must precede the import of torch
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.tables import markdown
from pipeline.data import mnist
from pipeline.data.dataset import Samples
from pipeline.recipes import Recipe, find
from pipeline.training.callback import Callback
from pipeline.training.devices import describe_device
from pipeline.training.loop import train
from pipeline.training.run import Run

SKIPPED, PROFILED = 10, 25  # steps

# Each kind of work, and its operators; their time includes the operators that they call.
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


class Profiled(Callback):
    """A callback that profiles some steps and then ends training."""

    def __init__(self) -> None:
        self._steps = 0
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def step(self, images: int, loss: Tensor) -> None:
        """Start the profiler after the warm-up; stop it, and training, after PROFILED steps."""
        self._steps += 1
        if self._steps == SKIPPED:
            self.profile.start()
        elif self._steps == SKIPPED + PROFILED:
            self.profile.stop()
            raise KeyboardInterrupt


def shares(recipe: Recipe) -> tuple[dict[str, float], float]:
    """Share of each kind of work in a training step on the CPU, largest first; and milliseconds per step."""
    tenth = mnist.load("tenth", None, Path("unused"))
    times = math.ceil((SKIPPED + PROFILED) * recipe.batch_size / len(tenth.train))  # one epoch has all steps
    digits = Samples(tenth.train.images.repeat(times, 1, 1), tenth.train.labels.repeat(times))
    profiled = Profiled()
    with suppress(KeyboardInterrupt):
        train(Run(recipe, 1, replace(tenth, train=digits), torch.device("cpu")), [profiled])
    averages = profiled.profile.key_averages()
    total = sum(each.self_cpu_time_total for each in averages)
    found = {
        kind: sum(each.cpu_time_total for each in averages if each.key in operators) / total
        for kind, operators in KINDS.items()
    }
    found["the rest: batch selection, type conversion, Python"] = 1 - sum(found.values())
    return dict(sorted(found.items(), key=lambda item: -item[1])), total / PROFILED / 1e3


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=find, default="default", help="name of a recipe, or a TOML file")
    recipe = parser.parse_args().recipe
    found, milliseconds = shares(recipe)
    print(f"`{recipe.name}`, torch {torch.__version__}, {describe_device(torch.device('cpu'))}")
    rows = [(kind, f"{share:.0%}") for kind, share in found.items() if share]
    print("\n" + markdown(("kind of work", f"share of {milliseconds:.1f} ms per step"), rows))


if __name__ == "__main__":
    main()
