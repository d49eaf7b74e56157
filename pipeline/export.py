"""Export a trained network to one ONNX file that maps raw pictures to calibrated probabilities.

`serving/` relies on the file's contract (docs/architecture.md). `export` deletes a file that breaks the contract or
whose probabilities differ from PyTorch's.
"""

import base64
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline import PipelineError
from pipeline.data.dataset import Digits
from pipeline.networks import MEAN, STANDARD_DEVIATION, Network, count_parameters, normalise

CONTRACT = "1"
BATCH_SIZES = (1, 2, 7, 128)
TOLERANCE = 1e-4
GOLDEN_PER_CLASS = 2


class ParityError(PipelineError):
    """The file breaks the contract or differs from the trained network; the message names the difference."""


class ExportedNetwork(nn.Module):
    """The computation of the ONNX file: normalisation, network, temperature and softmax.

    Args:
        network: the trained network.
        temperature: divisor of its logits (see `evaluation.fit_temperature`).
    """

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map pictures, uint8 [n, 28, 28], to probabilities, float32 [n, 10], and feature maps per convolution."""
        logits, maps = self.network.examine(normalise(images))
        return functional.softmax(logits / self.temperature, dim=1), *maps


def export(
    network: Network,
    temperature: float,
    metadata: dict[str, str],
    golden: Digits,
    checked: Sequence[Digits],
    to: Path,
) -> None:
    """Write the network to one ONNX file and verify it.

    Args:
        network: in evaluation mode, on the CPU.
        temperature: see `ExportedNetwork`.
        metadata: copied into the file, in addition to the network's own entries.
        golden: digits stored in the file with their probabilities, for a check on loading.
        checked: digits on which ONNX Runtime and PyTorch must agree.
        to: the file to write.

    Raises:
        ParityError: the file is not valid ONNX, its batch is not symbolic, or its answers differ from PyTorch's.
    """
    exported = ExportedNetwork(network, temperature).eval()
    with torch.inference_mode():
        outputs = exported(golden.images)
    names = ["probabilities"] + [f"conv{layer}" for layer in range(1, len(outputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = torch.onnx.export(
            exported,
            (golden.images[:2],),  # a batch of 1 could become a constant
            input_names=["images"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(
        model,
        {
            **metadata,
            "contract": CONTRACT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "network": type(network).__name__,
            "parameters": str(count_parameters(network)),
            "mean": str(MEAN),
            "std": str(STANDARD_DEVIATION),
            "temperature": repr(temperature),
            "golden_images": base64.b64encode(golden.images.numpy().tobytes()).decode(),
            "golden_probabilities": base64.b64encode(outputs[0].numpy().astype("<f4").tobytes()).decode(),
        },
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, to)  # one file: the weights are far below protobuf's limit of 2 GB
    try:
        check_contract(to)
        check_parity(exported, to, checked)
    except ParityError:
        to.unlink()
        raise


def choose_golden(digits: Digits) -> Digits:
    """Choose the first `GOLDEN_PER_CLASS` digits of each class."""
    chosen = torch.cat([(digits.labels == digit).nonzero()[:GOLDEN_PER_CLASS, 0] for digit in range(10)])
    return Digits(digits.images[chosen], digits.labels[chosen])


def check_contract(file: Path) -> None:
    """Check that a file is valid ONNX with the contract's input and output.

    Raises:
        ParityError: the file is not valid or breaks the contract.
    """
    try:
        onnx.checker.check_model(file, full_check=True)
        graph = onnx.load(file).graph
    except Exception as error:  # checker, protobuf and shape inference raise different errors
        raise ParityError(f"{file} is not valid ONNX: {error}") from error
    contract = [
        (graph.input[0], "images", onnx.TensorProto.UINT8, [28, 28]),
        (graph.output[0], "probabilities", onnx.TensorProto.FLOAT, [10]),
    ]
    for value, name, element, sizes in contract:
        tensor = value.type.tensor_type
        batch, *rest = tensor.shape.dim
        if (value.name, tensor.elem_type, [d.dim_value for d in rest]) != (name, element, sizes):
            raise ParityError(f"{file} breaks the contract: `{value.name}` does not match `{name}`.")
        if not batch.dim_param:
            raise ParityError(f"{file} breaks the contract: the batch of `{name}` is fixed at {batch.dim_value}.")


def check_parity(exported: ExportedNetwork, file: Path, checked: Sequence[Digits]) -> None:
    """Check that ONNX Runtime reproduces PyTorch over all digits, at each of `BATCH_SIZES`.

    Raises:
        ParityError: a label differs, or a probability by more than `TOLERANCE`.
    """
    for digits in checked:
        with torch.inference_mode():
            expected = torch.cat([exported(images)[0] for images in digits.images.split(500)]).numpy()
        for batch_size in BATCH_SIZES:
            probabilities = predict(file, digits, batch_size)
            gap = float(np.abs(probabilities - expected).max())
            labels = int((probabilities.argmax(axis=1) != expected.argmax(axis=1)).sum())
            if gap > TOLERANCE or labels:
                raise ParityError(
                    f"{file} differs from the trained network: at batch size {batch_size}, {labels} of "
                    f"{len(digits)} labels differ, and probabilities by up to {gap:.1e} (allowed: {TOLERANCE})."
                )


def predict(file: Path, digits: Digits, batch_size: int = 128) -> NDArray[np.float32]:
    """Compute the probabilities of an exported file, float32 [n, 10]."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = digits.images.split(batch_size)
    return np.concatenate([session.run(["probabilities"], {"images": part.numpy()})[0] for part in parts])
