"""How fast training could be at best: `python -m benchmarks.studies.floor [--recipe default]`.

Counts what a step must compute (floating-point operations of convolutions and matrix products, forward and backward)
and what it must move (each tensor that the backward pass needs, written once and read once), measures the two rates of
this machine, and prints the time that an image takes at each of them.
"""

import argparse
import os
import time

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does, before torch is imported
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.training.timed_run import multiplications, operations
from pipeline.networks import build
from pipeline.recipes import Recipe, find
from pipeline.training.devices import choose_device, choose_precision, describe_device

COPIED = 2**28  # bytes


def kept_bytes(recipe: Recipe, batch_size: int, device: torch.device, precision: torch.dtype) -> float:
    """Bytes that a step keeps from the forward for the backward pass, for each of its images; without the weights."""
    network = build(recipe.network).to(device).to(memory_format=torch.channels_last)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # held, or another tensor could take the address of one that is gone

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    pixels = torch.rand(batch_size, 1, 28, 28, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast(device.type, precision, precision != torch.float32):
            logits = network(pixels)
        functional.cross_entropy(logits.float(), labels).backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / batch_size


def copies(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, the best of several."""
    source = torch.rand(COPIED // 4, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(6):
        started = time.perf_counter()
        target.copy_(source)[0].item()  # waits for the device
        best = max(best, 2 * COPIED / (time.perf_counter() - started))
    return best


def main() -> None:
    """Count, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=find, default="default", help="a recipe's name, or a TOML file")
    recipe, device = parser.parse_args().recipe, choose_device("auto")
    precision = choose_precision(device, recipe.mixed_precision)
    batch_size = recipe.batch_size if device.type == "cpu" else recipe.batch_size_on_gpu
    work, rate = operations(recipe, batch_size), multiplications(device, precision)
    moved, bandwidth = 2 * kept_bytes(recipe, batch_size, device, precision), copies(device)
    kind = str(precision).removeprefix("torch.")
    print(f"`{recipe.name}`, torch {torch.__version__}, {describe_device(device)}, {kind}")
    print(f"{work / 1e6:.1f} MFLOP an image at {rate / 1e9:.0f} GFLOP/s: {1e6 * work / rate:.0f} µs")
    print(f"{moved / 1e3:.0f} kB an image at {bandwidth / 1e9:.1f} GB/s: {1e6 * moved / bandwidth:.0f} µs")
    print(f"so at most {1 / max(work / rate, moved / bandwidth):,.0f} images/s")


if __name__ == "__main__":
    main()
