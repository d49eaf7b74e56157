import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data import named
from pipeline.data.catalogue import CATALOGUE, TENTH
from pipeline.data.dataset import DataSet
from pipeline.data.names import NAMES, DataError
from pipeline.recipes import Augmentation, Habits
from tests.pipeline.data import made
from tests.pipeline.data.made import Made

FASHION = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
needs_fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="install Debian's package dataset-fashion-mnist")
NOWHERE = Path("nowhere")  # nothing may be downloaded there

Make = Callable[..., Made]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make files of a data set, and put their checksums in place of those of the real ones."""

    def make_files(name: str, seed: int = 0) -> Made:
        files = made.make(name, seed)
        monkeypatch.setitem(CATALOGUE, name, files.entry)
        return files

    monkeypatch.setattr(named, "download", lambda *_: pytest.fail("started a download"))
    return make_files


@pytest.fixture(scope="module")
def fashion() -> DataSet:
    return named.load("fashion-mnist", "auto", FASHION, None, NOWHERE)


@needs_fashion
def test_debians_files_of_fashion_mnist_are_read(fashion: DataSet) -> None:
    assert (len(fashion.train), len(fashion.validation), len(fashion.read_test())) == (55_000, 5_000, 10_000)
    assert (fashion.subset, fashion.is_part, fashion.source) == ("full", False, "DATASET_DIR")
    assert fashion.train.images.shape[1:] == fashion.task.shape
    assert fashion.task.classes[int(fashion.train.labels[0])] in ("Ankle boot", "T-shirt/top")
    assert fashion.task.preparation == {"name": "fit", "background": "black"}
    assert fashion.habits == Habits(least_epochs=24, augmentation=Augmentation(shift=1, flip=True))
    assert fashion.digest.startswith("d1fd84a877f3b78f")


@needs_fashion
def test_moments_of_fashion_mnist_are_those_of_its_training_split(fashion: DataSet) -> None:
    pixels = fashion.train.images.double() / 255
    assert fashion.task.mean == (round(pixels.mean().item(), 4),)
    assert fashion.task.deviation == (round(pixels.std(correction=0).item(), 4),)
    assert fashion.task.mean[0] == pytest.approx(0.286, abs=0.001)  # published for all 60,000


@needs_fashion
def test_no_training_picture_of_fashion_mnist_has_a_copy_in_the_validation_split(fashion: DataSet) -> None:
    train, validation = (
        {image.numpy().tobytes() for image in split.images} for split in (fashion.train, fashion.validation)
    )
    assert not train & validation


@needs_fashion
def test_fashion_mnist_in_place_of_mnist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is a file of fashion-mnist, not of mnist: "):
        named.load("mnist", "full", FASHION, None, NOWHERE)
    raw = tmp_path / "MNIST" / "raw"
    raw.parent.mkdir()
    raw.symlink_to(FASHION)
    with pytest.raises(DataError, match="set PIPELINE_DATASET=fashion-mnist, or name a folder with the files of MNIST"):
        named.load("mnist", "full", None, tmp_path, NOWHERE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["torchvision's", "flat"])
def test_published_files_are_checked_read_and_split(
    name: str, layout: str, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = make(name)
    files.write(tmp_path if layout == "flat" else tmp_path / files.entry.raw)
    dataset = named.load(name, "auto", tmp_path, None, NOWHERE)
    assert (len(dataset.train), len(dataset.validation)) == (220, 20)
    test = dataset.read_test()
    np.testing.assert_array_equal(test.images.numpy(), files.images)
    np.testing.assert_array_equal(test.labels.numpy(), files.labels)
    assert test.labels.dtype == torch.int64
    assert dataset.task.dataset == name
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("name", NAMES)
def test_altered_published_file_is_refused(name: str, make: Make, tmp_path: Path) -> None:
    files = make(name)
    files.write(tmp_path)
    file = tmp_path / list(files.published)[-1]
    content = file.read_bytes()
    file.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])  # a byte of the header; the data are whole
    if files.entry.unpacked:
        named.load(name, "full", tmp_path, None, NOWHERE)
    else:
        with pytest.raises(DataError, match=r"is truncated or altered .*: delete it and fetch it again"):
            named.load(name, "full", tmp_path, None, NOWHERE)


@pytest.mark.parametrize("name", ["kmnist", "qmnist", "emnist-balanced", "emnist-letters"])
def test_unpacked_files_without_a_known_checksum_are_read_with_one_warning(
    name: str, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = make(name)
    published = named.load(name, "full", files.write(tmp_path / "published"), None, NOWHERE)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    plain = named.load(name, "full", files.write(tmp_path / "plain", "plain"), None, NOWHERE)
    plain.read_test()
    (warning,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert "is not checked by SHA-256" in warning.getMessage()
    assert plain.digest == published.digest
    assert torch.equal(plain.train.images, published.train.images)


def test_unchecked_test_file_that_changes_after_loading_is_refused(make: Make, tmp_path: Path) -> None:
    folder = make("kmnist").write(tmp_path, "plain")
    dataset = named.load("kmnist", "full", folder, None, NOWHERE)
    make("kmnist", seed=1).write(folder, "plain")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is truncated or altered"):
        dataset.read_test()


def test_published_file_precedes_the_unpacked_one_if_it_alone_can_be_checked(make: Make, tmp_path: Path) -> None:
    folder = make("kmnist").write(tmp_path)
    (folder / "train-images-idx3-ubyte").write_bytes(b"damaged")
    named.load("kmnist", "full", folder, None, NOWHERE)


def test_files_of_another_data_set_are_named_even_if_nothing_is_known_of_these() -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is a file of mnist, not of kmnist: set .*=mnist"):
        named.load("kmnist", "full", TENTH, None, NOWHERE)


def test_packed_file_of_another_data_set_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a file of kmnist, not of fashion-mnist"):
        named.load("fashion-mnist", "full", make("kmnist").write(tmp_path), None, NOWHERE)


@pytest.mark.parametrize(("name", "label", "stated"), [("kmnist", 10, "0 to 9"), ("emnist-letters", 0, "1 to 26")])
def test_label_out_of_range_is_refused(name: str, label: int, stated: str, make: Make, tmp_path: Path) -> None:
    files = make(name)
    folder = files.write(tmp_path, "plain")
    (folder / files.entry.files[3]).write_bytes(made.idx(np.array([label] * made.TEST, np.uint8)))
    with pytest.raises(DataError, match=f"{files.entry.files[3]} has the label {label}, but .* has {stated}: fetch"):
        named.load(name, "full", folder, None, NOWHERE)


@pytest.mark.parametrize(
    ("file", "array", "problem"),
    [
        (0, np.zeros((240, 32, 32), np.uint8), "train-images-idx3-ubyte holds no pictures of 28 x 28 bytes"),
        (0, np.zeros((240, 28, 28), np.int32), "train-images-idx3-ubyte holds no pictures of 28 x 28 bytes"),
        (2, np.zeros((0, 28, 28), np.uint8), "t10k-images-idx3-ubyte holds no pictures"),
        (1, np.zeros(239, np.uint8), "train-labels-idx1-ubyte has no label for each picture"),
        (3, np.zeros(60, np.float32), "t10k-labels-idx1-ubyte has no label for each picture"),
    ],
)
def test_unchecked_file_of_another_form_is_refused(
    file: int, array: NDArray[Any], problem: str, make: Make, tmp_path: Path
) -> None:
    files = make("kmnist")
    folder = files.write(tmp_path, "plain")
    (folder / files.entry.files[file]).write_bytes(made.idx(array))
    with pytest.raises(DataError, match=problem):
        named.load("kmnist", "full", folder, None, NOWHERE)


def test_unchecked_file_that_is_no_idx_file_is_refused(make: Make, tmp_path: Path) -> None:
    folder = make("kmnist").write(tmp_path, "plain")
    (folder / "t10k-labels-idx1-ubyte").write_text("0123456789")
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is not an IDX file: fetch it again"):
        named.load("kmnist", "full", folder, None, NOWHERE)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mnist"])
def test_tenth_is_mnists_alone(name: str) -> None:
    with pytest.raises(DataError, match="has no bundled tenth: set PIPELINE_SUBSET to full or auto"):
        named.load(name, "tenth", None, None, NOWHERE)


def test_misspelt_name_is_refused_with_the_right_ones() -> None:
    meant = re.escape("(did you mean fashion-mnist?)")
    with pytest.raises(DataError, match=f"there is no data set of that name {meant}; there are mnist, fashion-mnist"):
        named.load("fashon-mnist", "full", None, None, NOWHERE)
    with pytest.raises(DataError, match="there is no data set of that name; there are mnist, fashion-mnist"):
        named.load("cifar", "full", None, None, NOWHERE)


def test_dataset_dir_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        named.load("fashion-mnist", "full", tmp_path / "nowhere", None, NOWHERE)
    assert str(raised.value) == (
        f"DATASET_DIR={tmp_path}/nowhere is not a folder: set it to the folder that holds FashionMNIST/raw/ or the "
        "four files of Fashion-MNIST, or unset it; Debian's package dataset-fashion-mnist has them in "
        "/usr/share/datasets/fashion-mnist."
    )


def test_dataset_dir_without_the_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match="does not hold KMNIST/raw/: set it to the folder that holds KMNIST/raw/ or"):
        named.load("kmnist", "full", tmp_path, None, NOWHERE)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs the permissions of POSIX")
def test_unreadable_dataset_dir_is_refused(make: Make, tmp_path: Path) -> None:
    folder = make("kmnist").write(tmp_path / "files")
    folder.chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read everything
    try:
        with pytest.raises(DataError, match=r"DATASET_DIR=.* is not readable"):
            named.load("kmnist", "full", folder, None, NOWHERE)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_missing_file_in_dataset_dir_is_named(make: Make, tmp_path: Path) -> None:
    folder = make("qmnist").write(tmp_path)
    (folder / "qmnist-test-labels-idx2-int.gz").unlink()
    with pytest.raises(DataError, match="qmnist-test-labels-idx2-int is missing: put QMNIST's file of that name there"):
        named.load("qmnist", "full", folder, None, NOWHERE)


def test_dataset_dir_holds_mnist_as_well_and_mnist_dir_precedes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenth = CATALOGUE["mnist"]
    monkeypatch.setitem(CATALOGUE, "mnist", replace(tenth, unpacked={"full": tenth.unpacked["tenth"]}))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in TENTH.glob("*.gz"):
        shutil.copy(file, raw)
    assert named.load("mnist", "auto", tmp_path, None, NOWHERE).source == "DATASET_DIR"
    assert named.load("mnist", "auto", tmp_path / "nowhere", tmp_path, NOWHERE).source == "MNIST_DIR"


def test_mnist_dir_is_mnists_alone(make: Make, tmp_path: Path) -> None:
    folder = make("kmnist").write(tmp_path / "files")
    assert named.load("kmnist", "auto", folder, tmp_path / "nowhere", NOWHERE).source == "DATASET_DIR"


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "qmnist", "emnist-letters"])
def test_data_set_that_cannot_be_downloaded_is_named_with_its_expected_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "download", lambda *_: "no route")
    with pytest.raises(DataError) as raised:
        named.load(name, "auto", None, None, tmp_path)
    entry = CATALOGUE[name]
    message = str(raised.value)
    assert message.startswith(
        f"{entry.title} is not in {tmp_path / entry.raw} and could not be downloaded (no route): "
    )
    assert f"set DATASET_DIR to a folder that holds them or {entry.raw}/" in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion-mnist")
