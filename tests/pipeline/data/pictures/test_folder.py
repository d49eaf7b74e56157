import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.data.dataset import DataSet, Samples
from pipeline.data.names import DataError
from pipeline.data.pictures import folder as folders
from pipeline.data.pictures.listing import scan
from pipeline.data.pictures.prepared import prepare
from tests.pipeline.data.pictures.folders import COLOUR, EDGE, STROKE, SYMBOLS, draw, make


def load(folder: Path, size: int = 28, preparation: dict[str, Any] = EDGE, flip: bool = False) -> DataSet:
    return folders.load(folder, size, preparation, folder.parent / "cache", flip)


def pixels(samples: Samples) -> set[bytes]:
    return {image.numpy().tobytes() for image in samples.images}


def counts(samples: Samples) -> list[int]:
    return torch.bincount(samples.labels, minlength=3).tolist()


def test_grey_folder(tmp_path: Path) -> None:
    dataset = load(make(tmp_path / "My Symbols", dict.fromkeys(SYMBOLS, 24)), 20)
    test = dataset.read_test()
    assert [counts(part) for part in (dataset.train, dataset.validation, test)] == [[18] * 3, [2] * 3, [4] * 3]
    assert dataset.train.images.shape == (54, 20, 20)
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (torch.uint8, torch.int64)
    assert dataset.train.images.is_contiguous()
    task = dataset.task
    assert (task.dataset, task.classes) == ("my-symbols", ("club", "heart", "star"))
    assert (task.height, task.width, task.channels, task.preparation) == (20, 20, 1, EDGE)
    assert (dataset.subset, dataset.source) == ("full", str(tmp_path / "My Symbols"))
    assert not pixels(dataset.train) & pixels(dataset.validation)
    assert not (pixels(dataset.train) | pixels(dataset.validation)) & pixels(test)


def test_mean_and_deviation_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    grey, colour = load(make(tmp_path / "grey")), load(make(tmp_path / "colour", colours=COLOUR))
    for dataset in (grey, colour):
        values = dataset.train.images.reshape(-1, dataset.task.channels).double() / 255
        assert dataset.task.mean == tuple(round(value, 4) for value in values.mean(0).tolist())
        assert dataset.task.deviation == tuple(round(value, 4) for value in values.std(0, correction=0).tolist())
    assert (len(grey.task.mean), len(colour.task.mean)) == (1, 3)


def test_constant_channel_is_not_blown_up(tmp_path: Path) -> None:
    dataset = load(make(tmp_path / "set", colours=((200, 0, 77), (20, 90, 77))))
    assert dataset.task.mean[2] == round(77 / 255, 4)
    assert dataset.task.deviation[2] == 0.01


def test_mixed_grey_and_colour_is_colour(tmp_path: Path) -> None:
    make(tmp_path / "set", {"club": 5, "star": 5})
    draw(tmp_path / "set" / "star" / "colour.png", SYMBOLS["star"], 50, COLOUR)
    dataset = load(tmp_path / "set")
    assert (dataset.task.channels, dataset.train.images.shape[1:]) == (3, (28, 28, 3))
    assert load(tmp_path / "set", preparation=STROKE).task.channels == 1


@pytest.mark.parametrize(("names", "epochs"), [({"club": 12, "star": 12}, 80), ({"club": 4000, "star": 4000}, 40)])
def test_small_folder_gets_more_epochs(
    names: dict[str, int], epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sum(names.values()) > 100:  # as if there were more of them
        names = dict.fromkeys(names, 12)
        monkeypatch.setattr(folders, "PICTURES_OF_ALL_EPOCHS", 40 * 18)
    augmentation = replace(folders.AUGMENTATION, shift=2.8)
    habits = load(make(tmp_path / "set", names), flip=True).habits
    assert (habits.least_epochs, habits.augmentation) == (epochs, replace(augmentation, flip=True))
    assert load(tmp_path / "set").habits.augmentation == augmentation


def test_equal_folder_of_another_name_is_another_data_set(tmp_path: Path) -> None:
    one, other = load(make(tmp_path / "one")), load(make(tmp_path / "other"))
    assert torch.equal(one.train.images, other.train.images)
    assert one.digest != other.digest  # a finished run of `one` is no run of `other`


def test_champion_must_be_halfway_between_chance_and_certainty(tmp_path: Path) -> None:
    two = load(make(tmp_path / "two", {"heart": 12, "star": 12}))
    three = load(make(tmp_path / "three"))
    assert [two.minimum_accuracy, three.minimum_accuracy] == pytest.approx([3 / 4, 2 / 3])


def test_digest_follows_pictures_labels_names_and_preparation(tmp_path: Path) -> None:
    make(tmp_path / "set")
    digests = [
        load(tmp_path / "set").digest,
        load(tmp_path / "set", preparation={**EDGE, "background": "black"}).digest,
    ]
    (tmp_path / "set" / "club").rename(tmp_path / "set" / "clubs")
    digests.append(load(tmp_path / "set").digest)
    draw(tmp_path / "set" / "star" / "0.png", SYMBOLS["star"], 99)
    digests.append(load(tmp_path / "set").digest)
    shutil.move(tmp_path / "set" / "star" / "1.png", tmp_path / "set" / "heart" / "1b.png")
    digests.append(load(tmp_path / "set").digest)
    assert len(set(digests)) == 5
    shutil.copytree(tmp_path / "set", tmp_path / "another place" / "set")
    assert load(tmp_path / "another place" / "set").digest == digests[-1]


def test_digest_follows_preparation_of_equal_pixels_and_labels(tmp_path: Path) -> None:
    for file in make(tmp_path / "set", dict.fromkeys(SYMBOLS, 5), ((255, 255, 255), (0, 0, 0))).rglob("*.png"):
        with Image.open(file) as picture:
            picture.resize((28, 28)).save(file)
    edge, black = load(tmp_path / "set"), load(tmp_path / "set", preparation={"name": "fit", "background": "black"})
    assert torch.equal(edge.train.images, black.train.images)
    assert edge.digest != black.digest
    parts = {"train": edge.train, "validation": edge.validation, "test": edge.read_test()}
    assert folders._digest(edge.task, parts) == edge.digest
    parts["test"] = Samples(parts["test"].images, parts["test"].labels.flip(0))
    assert folders._digest(edge.task, parts) != edge.digest


def test_given_splits_are_kept(tmp_path: Path) -> None:
    for number, (split, count) in enumerate({"train": 6, "validation": 2, "test": 3}.items()):
        make(tmp_path / "set" / split, dict.fromkeys(SYMBOLS, count), first=100 * number)
    dataset = load(tmp_path / "set")
    assert [counts(part) for part in (dataset.train, dataset.validation, dataset.read_test())] == [
        [6] * 3, [2] * 3, [3] * 3
    ]  # fmt: skip
    assert dataset.task.classes == ("club", "heart", "star")


def test_copies_across_given_splits_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        make(tmp_path / "set" / split, dict.fromkeys(SYMBOLS, 4), first=100 * number)
    shutil.copy(tmp_path / "set" / "test" / "star" / "200.png", tmp_path / "set" / "train" / "star" / "copy.png")
    shutil.copy(tmp_path / "set" / "validation" / "club" / "100.png", tmp_path / "set" / "train" / "heart" / "copy.png")
    dataset = load(tmp_path / "set")
    assert counts(dataset.train) == [4, 4, 4]
    warning = "Left out: 2 copies of pictures in a held-out split (train/heart/copy.png, train/star/copy.png)."
    assert warning in caplog.messages


def test_report_names_equal_pictures_of_two_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "set")
    shutil.copy(tmp_path / "set" / "club" / "3.png", tmp_path / "set" / "star" / "wrong.png")
    listing = scan(tmp_path / "set")
    done = prepare(listing, 28, EDGE, tmp_path / "cache")
    report = folders.examine(listing, done, [image.tobytes() for image in done.images])
    assert report.shared == (("club/3.png", "star/wrong.png"),)
    assert report.counts == {"club": 12, "heart": 12, "star": 13}
    areas = [width * height for width, height in (report.smallest, *done.sizes, report.largest)]
    assert (areas[0], areas[-1]) == (min(areas), max(areas))
    with caplog.at_level(logging.INFO, "pipeline"):
        dataset = load(tmp_path / "set")
    assert any("club/3.png = star/wrong.png" in line for line in caplog.messages)
    assert "Classes with fewer than 20 pictures: club, heart, star; add some." in caplog.messages
    parts = [pixels(part) for part in (dataset.train, dataset.validation, dataset.read_test())]
    assert sum(map(len, parts)) == len(set.union(*parts))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_class_with_too_few_pictures_is_named(count: int, tmp_path: Path) -> None:
    make(tmp_path / "set", {"club": 5, "star": count})
    with pytest.raises(
        DataError, match=rf"The class 'star' in .*set has too few pictures \({count}; at least 3\): add some"
    ):
        load(tmp_path / "set")


def test_class_with_too_few_different_pictures_is_named(tmp_path: Path) -> None:
    make(tmp_path / "set", {"club": 5, "star": 2})
    for name in "xyz":
        shutil.copy(tmp_path / "set" / "star" / "1.png", tmp_path / "set" / "star" / f"{name}.png")
    with pytest.raises(
        DataError, match=r"The class 'star' in .*set has too few readable pictures without copies \(2\) for"
    ):
        load(tmp_path / "set")


def test_more_than_a_twentieth_of_unreadable_files_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "set", {"club": 19, "star": 20})
    (tmp_path / "set" / "club" / "x.png").write_text("text")
    (tmp_path / "set" / "star" / "3.png").write_text("text")
    assert len(load(tmp_path / "set").train) == 28
    (tmp_path / "set" / "star" / "4.png").write_text("text")
    sentence = (
        r"3 of 40 files in .*set cannot be read, more than 5% \(club/x.png is not a picture that Pillow can read\): "
        "replace or remove them."
    )
    caplog.clear()
    with pytest.raises(DataError, match=sentence):
        load(tmp_path / "set")
    assert "Left out, because they cannot be read: 3 files (club/x.png is not" in caplog.text


def test_names_of_built_in_data_sets_are_not_taken(tmp_path: Path) -> None:
    for name in ("mnist", "digits"):
        assert load(make(tmp_path / name, {"a": 3, "b": 3})).task.dataset == f"{name}-folder"


@pytest.mark.parametrize("size", [7, 65])
def test_size_outside_8_to_64_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cannot be prepared to {size} pixels: choose a size from 8 to 64"):
        load(make(tmp_path / "set", {"a": 3, "b": 3}), size)


def test_unknown_preparation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the background 'red' of the preparation fit is unknown; expected edge or"):
        load(tmp_path, preparation={"name": "fit", "background": "red"})
