import base64
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from pipeline import evaluation, export
from pipeline.data.dataset import MNIST, DataSet, Samples, Task
from pipeline.export import ExportedNetwork, ParityError, check_contract, check_parity
from pipeline.form import read_form
from pipeline.networks import DenseNet, MNISTConvNet, Network, build
from pipeline.recipes import RECIPES


def metadata_of(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def test_file_keeps_the_contract(model_file: Path) -> None:
    graph = onnx.load(model_file, load_external_data=False).graph
    described = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in [*graph.input, *graph.output]
    }
    assert described == {
        "images": (TensorProto.UINT8, ["batch", 28, 28]),
        "probabilities": (TensorProto.FLOAT, ["batch", 10]),
        "conv1": (TensorProto.FLOAT, ["batch", 32, 28, 28]),
        "conv2": (TensorProto.FLOAT, ["batch", 64, 14, 14]),
    }
    assert [path.name for path in model_file.parent.iterdir()] == ["model.onnx"]  # no external data
    assert not any(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.initializer)


def test_metadata_describes_network_data_and_accuracy(model_file: Path, tenth: DataSet) -> None:
    metadata = metadata_of(model_file)
    assert metadata["contract"] == "2"
    assert metadata["network"] == "MNISTConvNet"
    assert metadata["parameters"] == "421642"
    assert metadata["data_digest"] == tenth.digest
    assert (metadata["mean"], metadata["std"]) == ("0.1307", "0.3081")
    assert float(metadata["temperature"]) > 0
    assert 0.9 < float(metadata["validation_accuracy"]) <= 1
    assert metadata["created"].endswith("+00:00")
    assert (metadata["dataset"], metadata["subset"]) == ("mnist", "tenth")
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert [metadata[name] for name in ("height", "width", "channels")] == ["28", "28", "1"]
    assert json.loads(metadata["preparation"]) == {"name": "stroke"}


def test_golden_batch_holds_the_probabilities_of_pytorch(model_file: Path, network: Network) -> None:
    metadata = metadata_of(model_file)
    images = np.frombuffer(base64.b64decode(metadata["golden_images"]), np.uint8).reshape(-1, 28, 28)
    probabilities = np.frombuffer(base64.b64decode(metadata["golden_probabilities"]), "<f4").reshape(-1, 10)
    exported = ExportedNetwork(network, float(metadata["temperature"])).eval()
    with torch.inference_mode():
        expected = exported(torch.from_numpy(images.copy()))[0].numpy()
    np.testing.assert_array_equal(probabilities, expected)
    assert len(images) == 20


def test_file_and_network_agree(model_file: Path, network: Network, tenth: DataSet) -> None:
    temperature = float(metadata_of(model_file)["temperature"])
    test = tenth.read_test()
    predicted = export.predict(model_file, test)
    judged = evaluation.evaluate(network, test)
    np.testing.assert_allclose(predicted, judged.probabilities(temperature).numpy(), atol=1e-4)
    np.testing.assert_array_equal(predicted.argmax(1), judged.logits.argmax(1))


def test_dense_network_is_exported_without_feature_maps(tenth: DataSet, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    few = Samples(tenth.train.images[:20], tenth.train.labels[:20])
    export.export(DenseNet(MNIST).eval(), 1.0, {}, few, [few], file)
    assert [value.name for value in onnx.load(file).graph.output] == ["probabilities"]


def test_file_that_differs_from_the_network_is_refused(model_file: Path, network: Network, tenth: DataSet) -> None:
    other = ExportedNetwork(MNISTConvNet(MNIST), 1.0).eval()
    with pytest.raises(ParityError, match=r"at batch size 1, .* labels differ"):
        check_parity(other, model_file, [tenth.validation])
    colder = ExportedNetwork(network, float(metadata_of(model_file)["temperature"]) * 1.01).eval()
    with pytest.raises(ParityError, match="0 of 500 labels differ, and probabilities by up to"):
        check_parity(colder, model_file, [tenth.validation])


def test_one_altered_weight_is_refused(model_file: Path, network: Network, tenth: DataSet, tmp_path: Path) -> None:
    model = onnx.load(model_file)
    weights = next(t for t in model.graph.initializer if list(t.dims) == [10, 128])
    altered = numpy_helper.to_array(weights).copy()
    altered[3, 5] += 0.05
    weights.CopyFrom(numpy_helper.from_array(altered, weights.name))
    onnx.save(model, tmp_path / "model.onnx")
    exported = ExportedNetwork(network, float(metadata_of(model_file)["temperature"])).eval()
    with pytest.raises(ParityError):
        check_parity(exported, tmp_path / "model.onnx", [tenth.validation])


def test_refused_file_is_deleted(
    network: Network, tenth: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)  # no prediction can agree
    few = Samples(tenth.train.images[:20], tenth.train.labels[:20])
    with pytest.raises(ParityError):
        export.export(network, 1.0, {}, few, [few], tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_fixed_batch_is_refused(model_file: Path, tmp_path: Path) -> None:
    model = onnx.load(model_file)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="the batch of `images` is fixed at 2"):
        check_contract(tmp_path / "model.onnx")


def test_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a text")
    with pytest.raises(ParityError, match="is not valid ONNX"):
        check_contract(tmp_path / "model.onnx")


def test_golden_digits_are_two_of_each_class(tenth: DataSet) -> None:
    assert export.choose_golden(tenth.validation).labels.tolist() == sorted([*range(10)] * 2)


COLOURED = Task("shapes", ("dot", "ring", "übrig"), 32, 20, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), {"name": "fit"})


def test_colour_pictures_of_any_shape_are_exported_and_proven(tmp_path: Path) -> None:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (200, *COLOURED.shape), dtype=torch.uint8)
    samples, file = Samples(images, torch.arange(200) % 3), tmp_path / "model.onnx"
    golden = export.choose_golden(samples)
    for architecture in (RECIPES["default"].network, RECIPES["best"].network):
        network = build(architecture, COLOURED).eval()
        export.export(network, 1.5, {"subset": "full"}, golden, [samples], file)
        assert read_form(file) == (COLOURED.classes, (32, 20, 3), COLOURED.preparation)
        assert json.loads(metadata_of(file)["mean"]) == [0.5, 0.4, 0.3]
        expected = evaluation.evaluate(network, samples).probabilities(1.5).numpy()
        np.testing.assert_allclose(export.predict(file, samples), expected, atol=1e-4)


def test_file_whose_classes_do_not_match_its_output_is_refused(model_file: Path, tmp_path: Path) -> None:
    model = onnx.load(model_file)
    next(entry for entry in model.metadata_props if entry.key == "classes").value = '["a", "b"]'
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="`probabilities` does not match `probabilities`"):
        check_contract(tmp_path / "model.onnx")


def test_file_of_contract_1_is_one_of_mnist(model_file: Path, tmp_path: Path) -> None:
    model = onnx.load(model_file)
    kept = [entry for entry in model.metadata_props if entry.key not in ("classes", "height", "width", "channels")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "model.onnx")
    assert read_form(tmp_path / "model.onnx") == (tuple("0123456789"), (28, 28), {"name": "stroke"})
    check_contract(tmp_path / "model.onnx")
