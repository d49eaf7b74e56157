"""Files that are made to break the service: each is refused in a sentence, and the former model keeps serving."""

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.processes import wait_until
from tests.serving.asking import ask
from tests.serving.conftest import Service, set_metadata
from tests.serving.model.poisons import Change, expand, loop_over, rename_output

MEBIBYTE = 2**20
NOT_ONNX = "is not an ONNX model that can be loaded: "
OTHER_FILE = f"{NOT_ONNX}it keeps weights in another file, "
IMAGE = np.zeros((1, 28, 28), np.uint8)


def external_data(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        length = len(weights.raw_data)
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            weights.external_data.add(key=key, value=value)

    return change


def giant_tensor(model: onnx.ModelProto) -> None:
    rename_output(model, "probabilities", "before")
    model.graph.initializer.add(name="giant", dims=[10**12], data_type=TensorProto.FLOAT, raw_data=b"1234")
    model.graph.node.append(helper.make_node("ReduceMax", ["giant"], ["largest"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["before", "largest"], ["probabilities"]))


def custom_operator(model: onnx.ModelProto) -> None:
    rename_output(model, "probabilities", "before")
    model.opset_import.add(domain="org.example", version=1)
    model.graph.node.append(helper.make_node("Shell", ["before"], ["probabilities"], domain="org.example"))


def later_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9999


def changed(change: Callable[[onnx.ModelProto], Any]) -> Callable[[Path, Path], None]:
    """The good model with a change."""

    def put(good: Path, path: Path) -> None:
        model = onnx.load(good)
        change(model)
        path.write_bytes(model.SerializeToString())

    return put


def content(data: bytes) -> Callable[[Path, Path], Any]:
    return lambda _, path: path.write_bytes(data)


def zipped(good: Path, path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(good, "model.onnx")
    path.write_bytes(buffer.getvalue())


def sparse(_: Path, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 * 2**30)


def not_utf8(good: Path, path: Path) -> None:
    changed(lambda model: set_metadata(model, "recipe", "recipe-as-bytes"))(good, path)
    path.write_bytes(path.read_bytes().replace(b"recipe-as-bytes", b"recipe-\xff\xfe-bytes"))


# name: (puts the file, sentence after its path)
POISONS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "external-traversal": (
        changed(external_data("../../../etc/passwd")),
        f"{OTHER_FILE}../../../etc/passwd.",
    ),
    "external-neighbour": (
        changed(external_data("README.md")),
        f"{OTHER_FILE}README.md.",
    ),
    "external-absolute": (changed(external_data("/dev/zero")), f"{OTHER_FILE}/dev/zero."),
    "giant-tensor": (changed(giant_tensor), NOT_ONNX),
    "giant-result": (changed(expand(10**10)), "fails on its golden batch: "),
    "large-result": (changed(expand(3 * 10**8)), "fails on its golden batch: "),
    "endless-loop": (changed(loop_over("probabilities")), "is not verified within 5 s (SERVING_VERIFY_SECONDS)."),
    "endless-map": (changed(loop_over("conv1")), "is not verified within 5 s (SERVING_VERIFY_SECONDS)."),
    "custom-operator": (changed(custom_operator), NOT_ONNX),
    "opset": (changed(later_opset), NOT_ONNX),
    "pickle": (content(pickle.dumps({"weights": os.getcwd})), NOT_ONNX),
    "zip": (zipped, NOT_ONNX),
    "sparse": (sparse, "has 2,147,483,648 bytes, but at most 268,435,456 are accepted."),
    "empty": (content(b""), NOT_ONNX),
    "directory": (lambda _, path: path.mkdir(), "cannot be read: Is a directory."),
    "named-pipe": (lambda _, path: os.mkfifo(path), "is not a regular file."),
    "device": (lambda _, path: path.symlink_to("/dev/zero"), "is not a regular file."),
    "contract": (changed(lambda model: set_metadata(model, "contract", "0")), "has contract version '0', but this"),
    "repeated-metadata": (
        changed(lambda model: model.metadata_props.add(key="recipe", value="twice")),
        "has the metadata 'recipe' twice.",
    ),
    "not-utf8": (not_utf8, "has the metadata b'recipe' that is not UTF-8."),
}


@dataclass
class Target:
    """A service that follows a file, its good models, and its memory at the start in bytes."""

    service: Service
    path: Path
    good: tuple[Path, Path]
    memory: int

    def put(self, make: Callable[[Path], Any]) -> None:
        made = self.path.with_name("made")
        make(made)
        if self.path.is_dir() or made.is_dir():
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()
        made.replace(self.path)

    def problem(self) -> str:
        return self.service.client.get("/model").json()["problem"] or ""

    def resident(self) -> int:
        """Memory of all processes of the service, in bytes."""
        family = [self.service.process, *self.service.process.children(recursive=True)]
        return sum(each.memory_info().rss for each in family if each.is_running())


@pytest.fixture(scope="module")
def target(
    start_service: Callable[..., Any], model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("poisoned")
    other = folder / "other.onnx"
    changed(lambda model: set_metadata(model, "recipe", "other"))(model_file, other)
    path = folder / "served.onnx"
    shutil.copyfile(model_file, path)
    settings = {"SERVING_MODEL": path, "SERVING_POLL_SECONDS": 0.1, "SERVING_VERIFY_SECONDS": 5}
    with start_service(**settings) as service:
        service.wait_for(200)
        ask(service, "/predict/raw", IMAGE)
        target = Target(service, path, (other, model_file), 0)
        target.memory = target.resident()
        yield target


@pytest.mark.parametrize("name", POISONS)
def test_poisoned_file_is_refused_and_the_former_model_serves(target: Target, name: str) -> None:
    make, expected = POISONS[name]
    before = target.service.client.get("/model").json()["version"]
    largest = 0
    target.put(partial(make, target.good[1]))

    def is_refused() -> bool:
        nonlocal largest
        largest = max(largest, target.resident())
        answer = ask(target.service, "/predict/raw", IMAGE)
        assert answer.status_code == 200
        assert answer.headers["x-model-version"] == before
        return f"{target.path} {expected}" in target.problem()

    wait_until(is_refused, f"the refusal: {expected}")
    assert target.problem().isprintable()
    # The verification may take 512 MiB and eight times the file; the service itself keeps its memory.
    assert largest < target.memory + 800 * MEBIBYTE
    good = target.good[0] if target.service.client.get("/model").json()["recipe"] != "other" else target.good[1]
    target.put(partial(shutil.copyfile, good))
    wait_until(lambda: target.service.client.get("/model").json()["version"] != before, "the good file being taken")
    assert target.problem() == ""
    assert target.resident() < target.memory + 100 * MEBIBYTE
    assert "Traceback" not in target.service.log.read_text()
