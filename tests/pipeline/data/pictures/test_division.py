import hashlib

from pipeline.data.pictures.division import divide

FLAT = ("train",)


def hashes(*contents: int) -> list[bytes]:
    return [hashlib.blake2b(bytes([content])).digest() for content in contents]


def test_a_sixth_of_each_class_is_test_and_a_twelfth_validation() -> None:
    labels = [0] * 120 + [1] * 24
    splits = divide(labels, ["train"] * 144, hashes(*range(144)), FLAT)
    assert [splits[:120].count(split) for split in ("train", "validation", "test")] == [90, 10, 20]
    assert [splits[120:].count(split) for split in ("train", "validation", "test")] == [18, 2, 4]


def test_order_of_the_files_changes_nothing() -> None:
    labels, digests = [index % 3 for index in range(90)], hashes(*range(90))
    splits = divide(labels, ["train"] * 90, digests, FLAT)
    assert divide(labels[::-1], ["train"] * 90, digests[::-1], FLAT) == splits[::-1]


def test_smallest_class_has_one_picture_of_each_split() -> None:
    assert sorted(divide([0] * 3, ["train"] * 3, hashes(1, 2, 3), FLAT)) == ["test", "train", "validation"]


def test_copies_are_in_one_split_across_classes_as_well() -> None:
    contents = [index % 20 for index in range(60)] + [index % 30 for index in range(60)]
    splits = divide([0] * 60 + [1] * 60, ["train"] * 120, hashes(*contents), FLAT)
    for content in range(30):
        assert len({split for split, its in zip(splits, contents, strict=True) if its == content}) == 1
    # Of the second class's 30 pictures, 20 have their split from the first.
    assert len({its for split, its in zip(splits[60:], contents[60:], strict=True) if split == "test"}) == 5


def test_copies_of_held_out_pictures_are_dropped_from_the_training_side() -> None:
    given = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    contents = hashes(1, 2, 3, 4, 3, 4, 4, 5)
    splits = divide([0] * 8, given, contents, ("train", "validation", "test"))
    assert splits == ["train", "train", "", "", "validation", "", "test", "test"]


def test_missing_split_is_taken_from_training() -> None:
    given = ["train"] * 24 + ["test"] * 3
    splits = divide([0] * 27, given, hashes(*range(24), 0, 30, 31), ("train", "test"))
    assert splits[0] == ""
    assert [splits[1:24].count(split) for split in ("train", "validation", "test")] == [21, 2, 0]
    assert splits[24:] == ["test"] * 3
