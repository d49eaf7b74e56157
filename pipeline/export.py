"""Export: a trained network in, one ONNX file out that does everything between a picture and an answer.

The file's contract (docs/architecture.md) is what `serving/` relies on. `export` hands over no file that has not
been checked against it and against PyTorch, over every digit given.
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
    """The file does not do what the trained network does; the message says where they part."""


class ExportedNetwork(nn.Module):
    """What the ONNX file computes: normalisation, network, temperature and softmax.

    Args:
        network: the trained network.
        temperature: what its logits are divided by (see `evaluation.fit_temperature`).
    """

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Uint8 [n, 28, 28] to probabilities float32 [n, 10] and the feature maps of each convolution."""
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
    """Write the network to `to` as one ONNX file that keeps the contract, or refuse.

    Args:
        network: in evaluation mode, on the CPU.
        temperature: see `ExportedNetwork`.
        metadata: goes into the file as it is, beside what export itself knows.
        golden: digits whose answers travel with the file, by which whoever loads it can check it.
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
        warnings.simplefilter("ignore")  # the exporter's own deprecations are no news to whoever trains
        program = torch.onnx.export(
            exported,
            (golden.images[:2],),  # a batch of 1 could be frozen into the graph
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
    """The first digits of each class, `GOLDEN_PER_CLASS` of them."""
    chosen = torch.cat([(digits.labels == digit).nonzero()[:GOLDEN_PER_CLASS, 0] for digit in range(10)])
    return Digits(digits.images[chosen], digits.labels[chosen])


def check_contract(file: Path) -> None:
    """Check that a file is valid ONNX with the contract's input and output.

    Raises:
        ParityError: it is not.
    """
    try:
        onnx.checker.check_model(file, full_check=True)
        graph = onnx.load(file).graph
    except Exception as error:  # the checker, protobuf and the shape inference each raise their own
        raise ParityError(f"{file} is not valid ONNX: {error}") from error
    promised = [
        (graph.input[0], "images", onnx.TensorProto.UINT8, [28, 28]),
        (graph.output[0], "probabilities", onnx.TensorProto.FLOAT, [10]),
    ]
    for value, name, element, sizes in promised:
        tensor = value.type.tensor_type
        batch, *rest = tensor.shape.dim
        if (value.name, tensor.elem_type, [d.dim_value for d in rest]) != (name, element, sizes):
            raise ParityError(f"{file} breaks the contract: `{value.name}` is not the promised `{name}`.")
        if not batch.dim_param:
            raise ParityError(f"{file} breaks the contract: the batch of `{name}` is fixed at {batch.dim_value}.")


def check_parity(exported: ExportedNetwork, file: Path, checked: Sequence[Digits]) -> None:
    """Check that ONNX Runtime's answers are PyTorch's, over all digits, at each of `BATCH_SIZES`.

    Raises:
        ParityError: another label, or a probability that differs by more than `TOLERANCE`.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for digits in checked:
        expected = expect(exported, digits)
        for batch_size in BATCH_SIZES:
            answers = np.concatenate(
                [session.run(["probabilities"], {"images": part})[0] for part in _parts(digits, batch_size)]
            )
            gap = float(np.abs(answers - expected).max())
            labels = int((answers.argmax(axis=1) != expected.argmax(axis=1)).sum())
            if gap > TOLERANCE or labels:
                raise ParityError(
                    f"{file} is not the network that was trained: at batch size {batch_size}, {labels} of "
                    f"{len(digits)} labels differ, and probabilities by up to {gap:.1e} (allowed: {TOLERANCE})."
                )


def expect(exported: ExportedNetwork, digits: Digits) -> NDArray[np.float32]:
    """PyTorch's probabilities, float32 [n, 10]."""
    with torch.inference_mode():
        parts = [exported(images)[0] for images in digits.images.split(500)]
    return torch.cat(parts).numpy()


def predict(file: Path, digits: Digits) -> NDArray[np.float32]:
    """An exported file's probabilities, float32 [n, 10]."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["probabilities"], {"images": part})[0] for part in _parts(digits, 128)])


def _parts(digits: Digits, batch_size: int) -> list[NDArray[np.uint8]]:
    return [part.numpy() for part in digits.images.split(batch_size)]
