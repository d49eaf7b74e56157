"""Devices: choice, precision, optimizer, and CUDA graphs."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pipeline import PipelineError

WARM_UP = 3  # steps before a capture, as PyTorch's notes on CUDA graphs advise


class DeviceError(PipelineError):
    """The requested device is unavailable; the message lists the available ones."""


def choose_device(name: str) -> torch.device:
    """Return the device `cuda`, `mps` or `cpu`, or for `auto` the first available of them.

    Raises:
        DeviceError: the requested device is unavailable.
    """
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [device for device, is_usable in usable.items() if is_usable]
    if name != "auto" and name not in available:
        raise DeviceError(f"There is no {name} device here: set PIPELINE_DEVICE to auto or {' or '.join(available)}.")
    return torch.device(available[0] if name == "auto" else name)


def describe_device(device: torch.device) -> str:
    """Describe the device for logs and tags."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def choose_precision(device: torch.device, mixed: bool) -> torch.dtype:
    """Choose the precision of convolutions and matrix products: bfloat16 if `mixed` and supported, else float32.

    Hardware support: NVIDIA GPUs since Ampere, CPUs with AVX512-BF16 or AMX.
    """
    supported = False
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        supported = any(torch.cpu.get_capabilities().get(unit) for unit in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if mixed and supported else torch.float32


def make_optimizer(
    parameters: Iterable[Tensor], rate: float, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """Create a fused AdamW (Loshchilov & Hutter, 2019); without decay it is Adam (Kingma & Ba, 2015).

    On a GPU the learning rate is a tensor, so that a captured step follows its changes.
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
    """Capture a step in a CUDA graph and replay it, which removes Python's overhead; on other devices return `step`.

    Args:
        step: maps a tensor to a tensor, changes other tensors only in place, and never waits for the device.
        device: of the step.
        generator: source of the step's random numbers, on that device.

    Returns:
        A function like `step`; the next call overwrites its result. It captures one graph per length of its argument.
    """
    if device.type != "cuda":
        return step
    calls: dict[int, int] = {}
    graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
    side = torch.cuda.Stream(device)

    def replay(argument: Tensor) -> Tensor:
        length = len(argument)
        calls[length] = calls.get(length, 0) + 1
        if calls[length] <= WARM_UP:
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                result = step(argument)
            torch.cuda.current_stream(device).wait_stream(side)
            return result
        if length not in graphs:
            graph, held = torch.cuda.CUDAGraph(), argument.clone()
            graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                result = step(held)
            graphs[length] = graph, held, result
        graph, held, result = graphs[length]
        held.copy_(argument)
        graph.replay()
        return result

    return replay
