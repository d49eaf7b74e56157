"""What differs between devices, in one place: choosing one, precision, and steps that a GPU replays."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pipeline import PipelineError

WARM_UP = 3  # steps before a recording, as PyTorch's notes on CUDA graphs advise


class DeviceError(PipelineError):
    """The wished device is not there; the message says which are."""


def choose_device(wish: str) -> torch.device:
    """The device to train on: `cuda`, `mps` or `cpu`, or for `auto` the first of them that is there.

    Raises:
        DeviceError: the wished device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[wish]:
        available = ", ".join(name for name, available in there.items() if available)
        raise DeviceError(f"There is no {wish} device here: set PIPELINE_DEVICE to auto or one of: {available}.")
    return torch.device(wish)


def describe_device(device: torch.device) -> str:
    """The device in words, for logs and tags."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def choose_precision(device: torch.device, mixed: bool) -> torch.dtype:
    """What convolutions and matrix products are computed in: bfloat16 if `mixed` and made for it, else float32.

    Made for it are GPUs since NVIDIA's Ampere, and CPUs with AVX512-BF16 or AMX.
    """
    able = False
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        able = any(torch.cpu.get_capabilities().get(unit) for unit in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if mixed and able else torch.float32


def make_optimizer(
    parameters: Iterable[Tensor], rate: float, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) in one kernel for all weights; without decay it is Adam (Kingma & Ba, 2015).

    On a GPU the learning rate is a tensor, so that a recorded step follows its changes.
    """
    on_gpu = device.type == "cuda"
    return torch.optim.AdamW(
        parameters,
        lr=torch.tensor(rate, device=device) if on_gpu else rate,
        weight_decay=weight_decay,
        fused=device.type in ("cpu", "cuda"),
        capturable=on_gpu,
    )


def replayed(
    step: Callable[[Tensor], Tensor], device: torch.device, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """The same step; on a GPU recorded once and then replayed, which frees it from waiting for Python (CUDA graphs).

    Args:
        step: takes a tensor, answers with one, and otherwise changes only tensors in place; never waits for the device.
        device: where it runs.
        generator: the random numbers it draws, of that device.

    Returns:
        A function like `step`, whose answer the next call overwrites. It records once for each length of its argument.
    """
    if device.type != "cuda":
        return step
    calls: dict[int, int] = {}
    recordings: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
    side = torch.cuda.Stream(device)

    def replay(argument: Tensor) -> Tensor:
        length = len(argument)
        calls[length] = calls.get(length, 0) + 1
        if calls[length] <= WARM_UP:
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                answer = step(argument)
            torch.cuda.current_stream(device).wait_stream(side)
            return answer
        if length not in recordings:
            graph, held = torch.cuda.CUDAGraph(), argument.clone()
            graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                answer = step(held)
            recordings[length] = graph, held, answer
        graph, held, answer = recordings[length]
        held.copy_(argument)
        graph.replay()
        return answer

    return replay
