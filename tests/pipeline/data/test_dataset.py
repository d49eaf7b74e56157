import gzip
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import dataset as data
from pipeline.data.dataset import CHECKSUMS, TENTH, DataError, DataSet
from pipeline.data.tenth.cut import cut

FILES = list(CHECKSUMS["tenth"])


def pixels(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def copy_of_tenth(folder: Path) -> Path:
    for file in FILES:
        shutil.copy(TENTH / f"{file}.gz", folder)
    return folder


def test_tenth_is_split_in_the_proportion_of_the_full_set(tenth: DataSet) -> None:
    assert (len(tenth.train), len(tenth.validation), len(tenth.read_test())) == (5_500, 500, 1_000)
    assert tenth.train.images.dtype == torch.uint8
    assert tenth.train.images.shape == (5_500, 28, 28)
    assert tenth.train.labels.dtype == torch.int64


def test_split_is_stratified(tenth: DataSet) -> None:
    everything = torch.bincount(torch.cat([tenth.train.labels, tenth.validation.labels]), minlength=10)
    held_out = torch.bincount(tenth.validation.labels, minlength=10)
    assert (held_out - everything / 12).abs().max() < 1


def test_split_does_not_depend_on_the_order_of_the_file(tenth: DataSet) -> None:
    images, labels = tenth.train.images.numpy(), tenth.train.labels.numpy().astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    expected = data.validation_mask(images, labels)
    assert (data.validation_mask(images[order], labels[order]) == expected[order]).all()


@pytest.mark.full
def test_full_set_is_split_55000_to_5000(full_mnist: DataSet) -> None:
    assert (len(full_mnist.train), len(full_mnist.validation)) == (55_000, 5_000)
    assert len(full_mnist.read_test()) == 10_000
    assert not pixels(full_mnist.train.images) & pixels(full_mnist.validation.images)


@pytest.mark.full
def test_tenth_keeps_to_the_split_of_the_full_set(full_mnist: DataSet, tenth: DataSet) -> None:
    assert pixels(tenth.train.images) <= pixels(full_mnist.train.images)
    assert pixels(tenth.validation.images) <= pixels(full_mnist.validation.images)
    assert pixels(tenth.read_test().images) <= pixels(full_mnist.read_test().images)


@pytest.mark.full
def test_tenth_can_be_cut_again(full_mnist: DataSet, tmp_path: Path) -> None:
    cut(full_mnist.folder, tmp_path)
    for file in FILES:
        again, bundled = tmp_path / f"{file}.gz", TENTH / f"{file}.gz"
        assert gzip.decompress(again.read_bytes()) == gzip.decompress(bundled.read_bytes())


@pytest.mark.full
def test_checksums_are_those_of_the_full_files(full_mnist: DataSet) -> None:
    assert full_mnist.digest.startswith("c65580678af93f1e")


@pytest.mark.parametrize("file", FILES)
def test_altered_file_is_named(file: str, tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    content = bytearray(gzip.decompress((folder / f"{file}.gz").read_bytes()))
    content[-1] ^= 1
    (folder / f"{file}.gz").write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=f"{file} is truncated or altered"):
        data._split("tenth", folder, "test")


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_truncated_file_is_named(keep: int, tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    file = folder / f"{FILES[0]}.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=FILES[0]):
        data._split("tenth", folder, "test")


def test_missing_file_is_named(tmp_path: Path) -> None:
    folder = copy_of_tenth(tmp_path)
    (folder / f"{FILES[2]}.gz").unlink()
    with pytest.raises(DataError, match=f"{FILES[2]} is missing"):
        data._split("tenth", folder, "test")


def test_labels_are_not_taken_for_images() -> None:
    with pytest.raises(DataError, match="not the IDX file"):
        data.read_idx(TENTH / "train-labels-idx1-ubyte", data.IMAGES)


def test_mnist_dir_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder: set it to the folder in which MNIST/raw/ lies"):
        data.load("auto", tmp_path / "nowhere", tmp_path)


def test_mnist_dir_that_holds_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no MNIST/raw/"):
        data.load("full", tmp_path, tmp_path)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match="train-images-idx3-ubyte is missing"):
        data.load("full", tmp_path, tmp_path)


@pytest.fixture
def mirrors_without_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's mirrors, replaced by a port of this machine where nobody listens."""
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])


@pytest.mark.usefixtures("mirrors_without_mnist")
def test_full_without_files_says_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        data.load("full", None, tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(raised.value)
    assert "MNIST_DIR" in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.usefixtures("mirrors_without_mnist")
def test_auto_goes_on_with_the_tenth_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = data.load("auto", None, tmp_path)
    assert dataset.name == "tenth"
    assert "could not be downloaded" in dataset.source
    assert "TRAINING ON THE BUNDLED TENTH" in caplog.text


def test_stalled_download_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, arrived = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        release.wait(60)
        arrived.set()

    monkeypatch.setattr("torchvision.datasets.MNIST.download", hang)
    monkeypatch.setattr(data, "STALLED_AFTER", 1.0)
    problem = data._download(tmp_path)
    assert problem == "no answer within 1 s"
    assert not arrived.is_set()
    release.set()


def test_full_set_in_the_download_folder_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenth: DataSet
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    copy_of_tenth(raw)
    monkeypatch.setitem(CHECKSUMS, "full", CHECKSUMS["tenth"])  # the tenth stands in for the full set
    monkeypatch.setattr(data, "_download", lambda _: pytest.fail("asked the network"))
    assert data.load("auto", None, tmp_path).source == "download"
