import pytest
import torch

from pipeline.training.devices import (
    DeviceError,
    choose_device,
    choose_precision,
    describe_device,
    make_optimizer,
    replayed,
)

CPU = torch.device("cpu")


def test_unavailable_device_is_refused() -> None:
    assert choose_device("cpu") == CPU
    assert describe_device(CPU).startswith("cpu (")
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DeviceError, match=f"There is no {missing} device here: set PIPELINE_DEVICE to auto"):
        choose_device(missing)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_auto_chooses_the_cpu_without_a_gpu() -> None:
    assert choose_device("auto") == CPU


@pytest.mark.parametrize(
    ("units", "mixed", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, True, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, True, torch.float32),
        ({"avx512_bf16": True}, False, torch.float32),
    ],
)
def test_bfloat16_needs_mixed_precision_and_a_cpu_that_supports_it(
    units: dict[str, bool], mixed: bool, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert choose_precision(CPU, mixed) == precision


def test_step_is_not_captured_on_a_cpu() -> None:
    def step(chosen: torch.Tensor) -> torch.Tensor:
        return chosen

    assert replayed(step, CPU, torch.Generator()) is step


def test_optimizer_without_decay_is_adam() -> None:
    weights = [torch.ones(3, requires_grad=True) for _ in range(2)]
    ours, adam = make_optimizer(weights[:1], 1e-3, 0.0, CPU), torch.optim.Adam(weights[1:], 1e-3)
    for _ in range(3):
        for weight, optimizer in zip(weights, (ours, adam), strict=True):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(*weights)
