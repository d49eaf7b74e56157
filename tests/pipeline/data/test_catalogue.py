import re

import pytest
from torchvision import datasets

from pipeline.data.catalogue import CATALOGUE, owner
from pipeline.data.names import NAMES


def test_every_name_has_an_entry() -> None:
    assert tuple(CATALOGUE) == NAMES
    assert [entry.name for entry in CATALOGUE.values()] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.title and entry.licence and entry.home.startswith("http")
    assert len(entry.files) == len(set(entry.files)) == 4
    checksums = [*entry.packed, *(checksum for sums in entry.unpacked.values() for checksum in sums)]
    checksums += [entry.archive[1]] if entry.archive else []
    assert len(checksums) == len(set(checksums)) in (1, 4, 8)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in checksums)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_torchvisions(name: str) -> None:
    entry = CATALOGUE[name]
    loader = getattr(datasets, entry.loader)
    theirs = loader.classes_split_dict[entry.downloads[0]["split"]] if entry.loader == "EMNIST" else loader.classes
    names = [re.sub("^([0-9]) - .*", r"\1", each) for each in theirs if each != "N/A"]
    assert list(entry.classes) == names
    assert len(set(names)) == {"emnist-balanced": 47, "emnist-letters": 26}.get(name, 10)


def test_files_are_torchvisions() -> None:
    for name in ("mnist", "fashion-mnist", "kmnist"):
        files = [file for file, _ in getattr(datasets, CATALOGUE[name].loader).resources]
        assert [f"{file}.gz" for file in CATALOGUE[name].files] == files
    resources = datasets.QMNIST.resources
    urls = [url for what in CATALOGUE["qmnist"].downloads for url, _ in resources[what["what"]]]
    assert [f"{file}.gz" for file in CATALOGUE["qmnist"].files] == [url.rpartition("/")[2] for url in urls]


def test_owner_of_a_checksum_is_found_in_each_form() -> None:
    mnist, kmnist = CATALOGUE["mnist"], CATALOGUE["kmnist"]
    assert owner(mnist.unpacked["tenth"][3]) == owner(mnist.unpacked["full"][0]) == "mnist"
    assert owner(kmnist.packed[1]) == "kmnist"
    assert owner("0" * 64) is None
