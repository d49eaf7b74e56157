"""One ONNX file, verified against the contract and its own golden batch before it serves."""

import base64
import binascii
import hashlib
import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime

from serving.contract import GOLDEN_TOLERANCE, Form, Images, Probabilities
from serving.errors import one_line, printable
from serving.model.metadata import GOLDEN, check_metadata, read_metadata
from serving.model.onnx_proto import external_file
from serving.model.pruning import keep_outputs

NOT_LOADED = "is not an ONNX model that can be loaded"
LARGEST = 256 * 2**20  # bytes of a file
WARM_UP_BATCHES = (1, 2, 4, 8, 16, 32)


class ModelError(Exception):
    """The file is refused; the message is one printable sentence that names the file and the reason."""

    def __init__(self, sentence: str) -> None:
        # A file determines parts of the sentence, such as the names of its inputs.
        super().__init__(printable(sentence))


class UnreadableError(ModelError):
    """The file cannot be read at the moment; a retry may succeed."""


@dataclass(frozen=True)
class Model:
    """A verified and warmed-up model; safe to call from several threads at the same time.

    Attributes:
        path: the file that it was loaded from.
        digest: SHA-256 of the file, in hexadecimal.
        metadata: the file's metadata as strings, without the golden batch.
        form: what it takes and returns, from the metadata.
        feature_maps: the file's outputs `conv1`, `conv2`, … in this order; `predict` does not compute them.
        seconds_per_image: fastest warm-up time per image, in batches of 8.
        content: the verified bytes; the file in `path` may have changed since.
    """

    path: Path
    digest: str
    metadata: dict[str, str]
    form: Form
    feature_maps: tuple[str, ...]
    seconds_per_image: float
    content: bytes = field(repr=False)
    _session: onnxruntime.InferenceSession

    @classmethod
    def load(cls, path: Path, threads: int = 1) -> Self:
        """Load, verify and warm up the model in `path`.

        Args:
            path: a `model.onnx` written by `pipeline export`.
            threads: number of ONNX Runtime threads per call.

        Raises:
            UnreadableError: the file is missing or not readable.
            ModelError: it is not ONNX, breaks the contract, or fails its golden batch.
        """
        return cls.parse(path, read_file(path), threads)

    @classmethod
    def parse(cls, path: Path, content: bytes, threads: int = 1) -> Self:
        """Do the same as `load` with the `content` of a file; `path` is for messages."""
        with suppress(ValueError):  # ONNX Runtime has the better message
            if (other := external_file(content)) is not None:
                raise ModelError(f"{path} {NOT_LOADED}: it keeps weights in another file, {other}.")
        try:
            session = open_session(content, threads)
        except Exception as error:
            raise ModelError(f"{path} {NOT_LOADED}: {one_line(error)}.") from error
        metadata, form = _metadata(path, content)
        _check_signature(path, session, form)
        images, expected = _golden_batch(path, metadata, form)
        maps = _feature_maps(session)
        try:
            session = open_session(keep_outputs(content, "probabilities"), threads)
        except Exception as error:
            raise ModelError(f"{path} cannot be loaded with probabilities alone: {one_line(error)}.") from error
        kept = {name: value for name, value in metadata.items() if not name.startswith(GOLDEN)}
        model = cls(path, hashlib.sha256(content).hexdigest(), kept, form, maps, 0.0, content, session)
        model._check_golden_batch(images, expected)
        object.__setattr__(model, "seconds_per_image", model._warm_up())
        return model

    def predict(self, images: Images) -> Probabilities:
        """Compute the calibrated probabilities of the classes.

        Args:
            images: uint8 `[batch, *form.shape]`; at least one.

        Returns:
            float32 `[batch, classes]`, rows sum to 1.
        """
        return np.asarray(self._session.run(["probabilities"], {"images": images})[0], np.float32)

    @property
    def subset(self) -> str:
        """The part of the data set that it was trained on: `full` or `tenth`."""
        return self.metadata["data" if self.metadata["contract"] == "1" else "subset"]

    def _check_golden_batch(self, images: Images, expected: Probabilities) -> None:
        try:
            found = self.predict(images)
        except Exception as error:
            raise ModelError(f"{self.path} fails on its golden batch: {one_line(error)}.") from error
        if found.shape != expected.shape:
            raise ModelError(
                f"{self.path} fails its golden batch: its output has shape {found.shape}, expected {expected.shape}."
            )
        # In this form, NaN counts as a difference.
        if not (difference := float(np.abs(found - expected).max())) <= GOLDEN_TOLERANCE:
            raise ModelError(
                f"{self.path} fails its golden batch: probabilities differ by {difference:.2g}, "
                f"at most {GOLDEN_TOLERANCE:g} is allowed."
            )
        if (wrong := int((found.argmax(1) != expected.argmax(1)).sum())) > 0:
            raise ModelError(f"{self.path} fails its golden batch: {wrong} of {len(images)} labels differ.")

    def _warm_up(self) -> float:
        fastest = float("inf")
        for batch in (*WARM_UP_BATCHES, 8, 8, 8):
            images = np.zeros((batch, *self.form.shape), np.uint8)
            started = time.perf_counter()
            self.predict(images)
            if batch == 8:
                fastest = min(fastest, (time.perf_counter() - started) / batch)
        return fastest


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        UnreadableError: the file is missing, not readable or not regular.
        ModelError: it has more than `LARGEST` bytes.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise UnreadableError(f"{path} is not a regular file.")
            content = file.read(LARGEST + 1) if state.st_size <= LARGEST else b""
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}.") from error
    if max(state.st_size, len(content)) > LARGEST:
        raise ModelError(f"{path} has {state.st_size:,} bytes, but at most {LARGEST:,} are accepted.")
    return content


def _open_at_once(path: str, flags: int) -> int:
    # Without this flag, opening a named pipe waits for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session for the ONNX file `content`, with `threads` threads per call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal: errors are raised, and logged by their handlers
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _check_signature(path: Path, session: onnxruntime.InferenceSession, form: Form) -> None:
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    if list(inputs) != ["images"] or inputs["images"].type != "tensor(uint8)":
        found = ", ".join(f"{node.name}: {node.type}" for node in inputs.values())
        raise ModelError(f"{path} takes ({found}), but the contract requires a single input images: tensor(uint8).")
    batch, *rest = inputs["images"].shape
    if isinstance(batch, int) or tuple(rest) != form.shape:
        raise ModelError(
            f"{path} takes images {inputs['images'].shape}, but the contract requires "
            f"[batch, {', '.join(map(str, form.shape))}], batch symbolic."
        )
    answer = outputs.get("probabilities")
    if answer is None or answer.type != "tensor(float)" or answer.shape[1:] != [len(form.classes)]:
        found = ", ".join(f"{node.name}: {node.type} {node.shape}" for node in outputs.values())
        raise ModelError(
            f"{path} returns ({found}), but the contract requires probabilities: tensor(float) "
            f"[batch, {len(form.classes)}], one for each class."
        )


def _feature_maps(session: onnxruntime.InferenceSession) -> tuple[str, ...]:
    maps = [node.name for node in session.get_outputs() if re.fullmatch(r"conv[1-9]\d*", node.name)]
    return tuple(sorted(maps, key=lambda name: int(name.removeprefix("conv"))))


def _metadata(path: Path, content: bytes) -> tuple[dict[str, str], Form]:
    try:
        metadata = read_metadata(content)
        return metadata, check_metadata(metadata)
    except ValueError as error:
        raise ModelError(f"{path} {error}.") from None


def _golden_batch(path: Path, metadata: dict[str, str], form: Form) -> tuple[Images, Probabilities]:
    arrays = []
    for name, dtype, shape in (
        ("golden_images", "u1", form.batch),
        ("golden_probabilities", "<f4", (-1, len(form.classes))),
    ):
        try:
            content = base64.b64decode(metadata[name], validate=True)
            arrays.append(np.frombuffer(content, dtype).reshape(shape))
        except (KeyError, binascii.Error, ValueError):
            raise ModelError(f"{path} has no readable golden batch: {name} is missing or damaged.") from None
    images, expected = arrays
    if not 0 < len(images) == len(expected):
        raise ModelError(f"{path} has no usable golden batch: {len(images)} images and {len(expected)} answers.")
    return images, expected.astype(np.float32)
