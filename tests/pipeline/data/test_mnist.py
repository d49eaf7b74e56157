import gzip
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.data import mnist, named
from pipeline.data.catalogue import CATALOGUE, TENTH
from pipeline.data.dataset import MNIST, DataSet
from pipeline.data.files import Files
from pipeline.data.names import DataError
from pipeline.data.tenth.cut import cut

ENTRY = CATALOGUE["mnist"]
FILES = ENTRY.files


def pixels(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def copy_of_tenth(folder: Path) -> Path:
    for file in FILES:
        shutil.copy(TENTH / f"{file}.gz", folder)
    return folder


def test_tenth_has_a_tenth_of_each_split(tenth: DataSet) -> None:
    assert (len(tenth.train), len(tenth.validation), len(tenth.read_test())) == (5_500, 500, 1_000)
    assert tenth.train.images.dtype == torch.uint8
    assert tenth.train.images.shape == (5_500, 28, 28)
    assert tenth.train.labels.dtype == torch.int64
    assert (tenth.subset, tenth.is_part) == ("tenth", True)


def test_task_is_mnists(tenth: DataSet) -> None:
    assert tenth.task == MNIST
    assert tenth.minimum_accuracy == 0.98


@pytest.mark.full
def test_full_set_has_55000_training_and_5000_validation_digits(full_mnist: DataSet) -> None:
    assert (len(full_mnist.train), len(full_mnist.validation)) == (55_000, 5_000)
    assert len(full_mnist.read_test()) == 10_000
    assert not pixels(full_mnist.train.images) & pixels(full_mnist.validation.images)
    assert (full_mnist.subset, full_mnist.is_part) == ("full", False)


@pytest.mark.full
def test_each_split_of_the_tenth_lies_within_that_of_the_full_set(full_mnist: DataSet, tenth: DataSet) -> None:
    assert pixels(tenth.train.images) <= pixels(full_mnist.train.images)
    assert pixels(tenth.validation.images) <= pixels(full_mnist.validation.images)
    assert pixels(tenth.read_test().images) <= pixels(full_mnist.read_test().images)


@pytest.mark.full
def test_tenth_can_be_cut_again(tmp_path: Path) -> None:
    cut(Path(os.environ["MNIST_DIR"]) / "MNIST" / "raw", tmp_path)
    for file in FILES:
        again, bundled = tmp_path / f"{file}.gz", TENTH / f"{file}.gz"
        assert gzip.decompress(again.read_bytes()) == gzip.decompress(bundled.read_bytes())


@pytest.mark.full
def test_digest_of_the_full_set(full_mnist: DataSet) -> None:
    assert full_mnist.digest.startswith("c65580678af93f1e")


def test_digest_of_the_tenth(tenth: DataSet) -> None:
    assert tenth.digest.startswith("5604eaf75a60039b")


@pytest.mark.parametrize("file", FILES)
def test_altered_file_is_named(file: str, tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    content = bytearray(gzip.decompress((folder / f"{file}.gz").read_bytes()))
    content[-1] ^= 1
    (folder / f"{file}.gz").write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=f"{file} is truncated or altered"):
        named._load(ENTRY, "tenth", folder, "test")


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_truncated_file_is_named(keep: int, tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    file = folder / f"{FILES[0]}.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=FILES[0]):
        named._load(ENTRY, "tenth", folder, "test")


def test_missing_file_is_named(tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    (folder / f"{FILES[2]}.gz").unlink()
    with pytest.raises(DataError, match=f"{FILES[2]} is missing"):
        named._load(ENTRY, "tenth", folder, "test")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs the permissions of POSIX")
@pytest.mark.parametrize("hidden", ["folder", "file"])
def test_unreadable_file_is_named_and_not_called_missing(hidden: str, tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    (folder if hidden == "folder" else folder / f"{FILES[0]}.gz").chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read everything
    try:
        with pytest.raises(DataError, match="is not readable: correct its owner or its mode"):
            named.read(Files(ENTRY, folder, "tenth"), "train")
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_images_in_place_of_labels_are_refused(tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    shutil.copy(folder / f"{FILES[0]}.gz", folder / f"{FILES[1]}.gz")
    with pytest.raises(DataError, match=f"{FILES[1]} is truncated or altered"):
        named._load(ENTRY, "tenth", folder, "test")


def test_plain_file_takes_precedence_over_compressed_file(tmp_path: Path, tenth: DataSet) -> None:
    folder = copy_of_tenth(tmp_path)
    for file in FILES:
        (folder / file).write_bytes(gzip.decompress((folder / f"{file}.gz").read_bytes()))
        (folder / f"{file}.gz").write_bytes(b"damaged")
    dataset = named._load(ENTRY, "tenth", folder, "test")
    assert dataset.digest == tenth.digest
    assert torch.equal(dataset.read_test().images, tenth.read_test().images)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, *(f"{file}.gz" for file in FILES)])


def test_test_digits_damaged_after_loading_are_refused(tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    dataset = named._load(ENTRY, "tenth", folder, "test")
    (folder / f"{FILES[3]}.gz").write_bytes(gzip.compress(b"damaged"))
    with pytest.raises(DataError, match=f"{FILES[3]} is truncated or altered"):
        dataset.read_test()


def test_missing_mnist_dir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder: set it to the folder that holds MNIST/raw/"):
        mnist.load("auto", tmp_path / "nowhere", tmp_path)


def test_mnist_dir_without_mnist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold MNIST/raw/"):
        mnist.load("full", tmp_path, tmp_path)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match="train-images-idx3-ubyte is missing"):
        mnist.load("full", tmp_path, tmp_path)


@pytest.fixture
def mirrors_without_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace torchvision's mirrors by a local port that refuses connections."""
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])


@pytest.mark.usefixtures("mirrors_without_mnist")
def test_missing_full_set_names_its_expected_place(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        mnist.load("full", None, tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(raised.value)
    assert "MNIST_DIR" in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.usefixtures("mirrors_without_mnist")
def test_auto_falls_back_to_the_tenth_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = mnist.load("auto", None, tmp_path)
    assert dataset.is_part
    assert "could not be downloaded" in dataset.source
    assert "USING THE BUNDLED TENTH" in caplog.text


def test_earlier_download_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenth: DataSet) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    copy_of_tenth(raw)
    stand_in = replace(ENTRY, unpacked={"full": ENTRY.unpacked["tenth"]})  # the tenth stands in for the full set
    monkeypatch.setitem(CATALOGUE, "mnist", stand_in)
    monkeypatch.setattr(named, "download", lambda *_: pytest.fail("started a download"))
    assert mnist.load("auto", None, tmp_path).source == "download"
