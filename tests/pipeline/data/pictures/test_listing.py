import os
import tempfile
import unicodedata
from pathlib import Path

import pytest

from pipeline.data.names import DataError
from pipeline.data.pictures.listing import scan


def touch(folder: Path, *paths: str) -> Path:
    """Make empty files: nothing here decodes them."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as refused:
        scan(folder)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.replace(str(folder), "FOLDER")


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    listing = scan(touch(tmp_path, "b/2.png", "b/1.png", "a/deep/er/3.jpg"))
    assert listing.classes == ("a", "b")
    assert listing.splits == ("train",)
    assert [(file.path, file.label, file.split) for file in listing.files] == [
        ("a/deep/er/3.jpg", 0, "train"),
        ("b/1.png", 1, "train"),
        ("b/2.png", 1, "train"),
    ]


def test_names_may_have_spaces_umlauts_and_quotes(tmp_path: Path) -> None:
    names = ['it\'s "A"', "Blüte & Blatt", "two words", "文字"]
    listing = scan(touch(tmp_path, *(f"{name}/Größe 'x'.png" for name in names)))
    assert listing.classes == tuple(sorted(names))
    assert not any(file.problem for file in listing.files)


def test_name_of_a_class_is_composed(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Blüte")
    assert scan(touch(tmp_path, f"{apart}/1.png", "b/1.png")).classes == ("Blüte", "b")
    touch(tmp_path, "Blüte/1.png")
    assert "two folders 'Blüte' with equal names: rename one" in refusal(tmp_path)


def test_hidden_files_and_those_of_file_managers_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", "a/.hidden.png", "a/Thumbs.db", "b/.DS_Store", "desktop.ini", "README.txt")
    listing = scan(touch(tmp_path, ".git/x.png", "__MACOSX/x.png", "b/.cache/x.png"))
    assert [file.path for file in listing.files] == ["a/1.png", "b/1.png"]
    assert listing.loose == ()


def test_splits_are_used_if_they_are_there(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "test", "validation") for name in ("a", "b")))
    listing = scan(tmp_path)
    assert listing.splits == ("train", "validation", "test")
    assert listing.classes == ("a", "b")
    assert [file.split for file in listing.files] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2


def test_names_of_splits_may_be_classes(tmp_path: Path) -> None:
    listing = scan(touch(tmp_path, "train/1.png", "bus/1.png", "test/1.png"))
    assert (listing.classes, listing.splits) == (("bus", "test", "train"), ("train",))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    sentence = "FOLDER is not a folder: name one that holds a folder of pictures for each class."
    assert refusal(tmp_path / "none") == sentence
    assert refusal(touch(tmp_path, "file.png") / "file.png") == sentence


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    remedy = "put the pictures of each class into a folder of its own, named after the class."
    assert refusal(tmp_path) == f"FOLDER has no classes: {remedy}"
    touch(tmp_path, "notes.txt", ".hidden")
    assert refusal(tmp_path) == f"FOLDER has no classes: {remedy}"


def test_pictures_outside_classes_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number:02}.JPG" for number in range(12)))
    sentence = refusal(tmp_path)
    assert "has pictures outside folders of classes (00.JPG, 01.JPG," in sentence
    assert "09.JPG and 2 more): put the pictures of each class into a folder of its own" in sentence
    assert len(scan(touch(tmp_path, "a/1.png", "b/1.png", "notes.txt")).loose) == 12
    split = touch(tmp_path / "split", "train/a/1.png", "train/b/1.png", "train/loose.png")
    assert scan(split).loose == ("train/loose.png",)


def test_one_class_is_refused_by_name(tmp_path: Path) -> None:
    assert "FOLDER has one class, 'a'; a classifier needs two or more: put" in refusal(touch(tmp_path, "a/1.png"))


def test_more_than_100_classes_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/1.png" for number in range(100)))
    assert len(scan(tmp_path).classes) == 100
    assert "has 101 classes; expected at most 100: join or remove some." in refusal(touch(tmp_path, "100/1.png"))


def test_classes_that_differ_by_case_alone_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "Cat/1.png", "cat/1.png")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the file system ignores case")
    assert refusal(tmp_path) == "FOLDER has the classes 'Cat' and 'cat': rename one; they differ by case alone."


@pytest.mark.parametrize("name", ["two\nlines", "x" * 101, "\udcff"])
def test_name_that_cannot_be_shown_is_refused(name: str, tmp_path: Path) -> None:
    sentence = refusal(touch(tmp_path, f"{name}/1.png", "a/1.png"))
    assert f"a class with the name {name!r}: rename it to at most 100 printable characters." in sentence


def test_class_that_a_split_lacks_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    assert refusal(tmp_path) == "The class 'b' is not in FOLDER/test: add its folder, or remove the class."


def test_held_out_split_without_training_pictures_is_refused(tmp_path: Path) -> None:
    assert "FOLDER has test/ but no train/: put" in refusal(touch(tmp_path, "test/a/1.png", "test/b/1.png"))


def test_folder_next_to_the_splits_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    assert "FOLDER has val/ next to train/: only validation/ and test/ may stand there; rename val/" in refusal(
        tmp_path
    )


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "1.png")
    folder = touch(tmp_path / "set", "a/1.png", "b/1.png")
    (folder / "a" / "2.png").symlink_to(outside / "1.png")
    (folder / "a" / "more").symlink_to(outside)
    (folder / "c").symlink_to(outside)
    (folder / "b" / "2.png").symlink_to(folder / "a" / "1.png")
    (folder / "b" / "3.png").symlink_to("nowhere")
    (folder / "b" / "circle").symlink_to(folder)
    (folder / "b" / "itself").symlink_to(folder / "b" / "itself")
    listing = scan(folder)
    problems = {file.path: file.problem for file in listing.files}
    out = "is a link that leads out of the folder"
    assert listing.classes == ("a", "b")
    assert {path: problem for path, problem in problems.items() if problem == out} == dict.fromkeys(
        ("a/2.png", "a/more", "c"), out
    )
    assert problems["b/2.png"] == ""
    assert problems["b/circle"] == "is a link to a folder"
    assert problems["b/3.png"].startswith("cannot be opened (No such file")
    assert problems["b/itself"].startswith("cannot be opened (")


def test_links_in_place_of_classes_are_refused(tmp_path: Path) -> None:
    outside, folder = touch(tmp_path / "outside", "1.png"), tmp_path / "set"
    folder.mkdir()
    (folder / "a").symlink_to(outside)
    assert refusal(folder) == "FOLDER has links in place of classes (a): replace them by the folders."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(touch(tmp_path, "a/1.png", "b/1.png") / "a" / "2.png")
    assert [file.problem for file in scan(tmp_path).files] == ["", "is not a file", ""]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs the permissions of POSIX")
def test_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path / "set", "a/1.png", "b/1.png")
    for parent in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in parent.parents:
            parent.chmod(0o755)
    (folder / "b").chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read everything
    try:
        assert refusal(folder) == "FOLDER/b cannot be read (Permission denied): correct its owner or its mode."
        assert (
            refusal(folder / "b" / "c") == "FOLDER cannot be read (Permission denied): correct its owner or its mode."
        )
    finally:
        os.seteuid(user)
        (folder / "b").chmod(0o700)
