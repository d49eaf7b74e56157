"""The chapter's loop: its network is the chapter's, and it learns."""

import gzip
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from benchmarks.training import chapter
from pipeline.data.catalogue import TENTH
from pipeline.data.dataset import MNIST
from pipeline.networks import MNISTConvNet, count_parameters, normalise

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled tenth in torchvision's layout."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in TENTH.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return tmp_path


def test_network_equals_ours() -> None:
    theirs, ours = chapter.ChapterNetwork(), MNISTConvNet(MNIST)
    assert count_parameters(theirs) == 421_642
    with torch.no_grad():
        for copy, original in zip(ours.parameters(), theirs.parameters(), strict=True):
            copy.copy_(original)
        pixels = normalise(torch.randint(0, 256, (4, 28, 28)), MNIST)
        torch.testing.assert_close(ours(pixels), theirs(pixels))


def test_loop_learns_from_folder(folder: Path) -> None:
    torch.manual_seed(1)
    train, test = chapter.load(str(folder), 16, limit=480)
    network = chapter.ChapterNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    before = chapter.evaluate(network, test, CPU)
    losses = [chapter.train_epoch(network, train, optimizer, CPU) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert before < 0.3
    assert chapter.evaluate(network, test, CPU) > 0.8


def test_images_are_normalised_like_ours(folder: Path) -> None:
    train, _ = chapter.load(str(folder), 480, limit=480)
    images, _ = next(iter(train))
    everything = datasets.MNIST(str(folder), train=True).data[:480]
    torch.testing.assert_close(images.mean(), normalise(everything, MNIST).mean())
    torch.testing.assert_close(images.std(), normalise(everything, MNIST).std())
