"""Export a trained network to one ONNX file that maps raw pictures to calibrated probabilities.

`serving/` relies on the file's contract (docs/architecture.md). `export` deletes a file that breaks the contract or
whose probabilities differ from PyTorch's.
"""

import base64
import json
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
from pipeline.data.dataset import Samples, Task
from pipeline.form import read_form
from pipeline.networks import Network, count_parameters, normalise

CONTRACT = "2"
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
        """Map pictures to probabilities and feature maps.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].

        Returns:
            float32 [n, classes], and of each convolution its feature maps.
        """
        logits, maps = self.network.examine(normalise(images, self.network.task))
        return functional.softmax(logits / self.temperature, dim=1), *maps


def export(
    network: Network,
    temperature: float,
    metadata: dict[str, str],
    golden: Samples,
    checked: Sequence[Samples],
    to: Path,
) -> None:
    """Write the network to one ONNX file and verify it.

    Args:
        network: in evaluation mode, on the CPU.
        temperature: see `ExportedNetwork`.
        metadata: copied into the file, in addition to the network's own entries.
        golden: samples stored in the file with their probabilities, for a check on loading.
        checked: samples on which ONNX Runtime and PyTorch must agree.
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
            **_of_task(network.task),
            "temperature": repr(temperature),
            "golden_images": base64.b64encode(golden.images.numpy().tobytes()).decode(),
            "golden_probabilities": base64.b64encode(outputs[0].numpy().astype("<f4").tobytes()).decode(),
        },
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, to)  # one file: the weights are far below protobuf's limit of 2 GB
    try:
        check_contract(to, network.task)
        check_parity(exported, to, checked)
    except ParityError:
        to.unlink()
        raise


def _of_task(task: Task) -> dict[str, str]:
    """The task as metadata; numbers and lists as JSON."""
    mean, deviation = (of[0] if task.channels == 1 else list(of) for of in (task.mean, task.deviation))
    values = {
        "classes": list(task.classes),
        "height": task.height,
        "width": task.width,
        "channels": task.channels,
        "preparation": task.preparation,
        "mean": mean,
        "std": deviation,
    }
    return {"dataset": task.dataset} | {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def choose_golden(samples: Samples) -> Samples:
    """Choose the first `GOLDEN_PER_CLASS` samples of each class."""
    labels = samples.labels
    chosen = torch.cat([(labels == label).nonzero()[:GOLDEN_PER_CLASS, 0] for label in labels.unique()])
    return Samples(samples.images[chosen], labels[chosen])


def check_contract(file: Path, task: Task | None = None) -> None:
    """Check that a file is valid ONNX with the contract's input and output.

    Args:
        file: an ONNX file.
        task: whose shapes the file must have; by default those that its own metadata name.

    Raises:
        ParityError: the file is not valid or breaks the contract.
    """
    try:
        onnx.checker.check_model(file, full_check=True)
        graph = onnx.load(file).graph
        classes, shape = (task.classes, task.shape) if task else read_form(file)[:2]
    except Exception as error:  # checker, protobuf and shape inference raise different errors
        raise ParityError(f"{file} is not valid ONNX: {error}") from error
    contract = [
        (graph.input[0], "images", onnx.TensorProto.UINT8, list(shape)),
        (graph.output[0], "probabilities", onnx.TensorProto.FLOAT, [len(classes)]),
    ]
    for value, name, element, sizes in contract:
        tensor = value.type.tensor_type
        batch, *rest = tensor.shape.dim
        if (value.name, tensor.elem_type, [d.dim_value for d in rest]) != (name, element, sizes):
            raise ParityError(f"{file} breaks the contract: `{value.name}` does not match `{name}`.")
        if not batch.dim_param:
            raise ParityError(f"{file} breaks the contract: the batch of `{name}` is fixed at {batch.dim_value}.")


def check_parity(exported: ExportedNetwork, file: Path, checked: Sequence[Samples]) -> None:
    """Check that ONNX Runtime reproduces PyTorch over all samples, at each of `BATCH_SIZES`.

    Raises:
        ParityError: a label differs, or a probability by more than `TOLERANCE`.
    """
    for samples in checked:
        with torch.inference_mode():
            expected = torch.cat([exported(images)[0] for images in samples.images.split(500)]).numpy()
        for batch_size in BATCH_SIZES:
            probabilities = predict(file, samples, batch_size)
            gap = float(np.abs(probabilities - expected).max())
            labels = int((probabilities.argmax(axis=1) != expected.argmax(axis=1)).sum())
            if gap > TOLERANCE or labels:
                raise ParityError(
                    f"{file} differs from the trained network: at batch size {batch_size}, {labels} of "
                    f"{len(samples)} labels differ, and probabilities by up to {gap:.1e} (allowed: {TOLERANCE})."
                )


def predict(file: Path, samples: Samples, batch_size: int = 128) -> NDArray[np.float32]:
    """Compute the probabilities of an exported file, float32 [n, classes]."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = samples.images.split(batch_size)
    return np.concatenate([session.run(["probabilities"], {"images": part.numpy()})[0] for part in parts])
