"""The chapter's training loop, in the chapter's own style: `python -m benchmarks.training.chapter --data FOLDER`.

`benchmarks.training` uses it as the baseline. It decodes, converts and normalises images one by one, uses small
batches, and reads `.item()` in each step. For each line on its standard input it trains one epoch, evaluates the
network on the test digits, and prints the measurements as one line of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sized
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the textbook's name
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

# Batches of images float32 [n, 1, 28, 28] and labels int64 [n].
Loader: TypeAlias = DataLoader[tuple[torch.Tensor, torch.Tensor]]


class ChapterNetwork(nn.Module):
    """Two convolutions and two linear layers; 421,642 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images float32 [n, 1, 28, 28] to logits float32 [n, 10]."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 64 * 7 * 7)
        x = F.relu(self.fc1(x))
        logits: torch.Tensor = self.fc2(x)
        return logits


def load(folder: str, batch_size: int, limit: int | None = None) -> tuple[Loader, Loader]:
    """Training digits and test digits of MNIST, or the first `limit` digits of each."""
    transform = transforms.Compose(  # type: ignore[no-untyped-call]
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]  # type: ignore[no-untyped-call]
    )
    train_set: Dataset[tuple[torch.Tensor, torch.Tensor]] = datasets.MNIST(folder, train=True, transform=transform)
    test_set: Dataset[tuple[torch.Tensor, torch.Tensor]] = datasets.MNIST(folder, train=False, transform=transform)
    if limit:
        train_set, test_set = Subset(train_set, range(limit)), Subset(test_set, range(limit))
    return DataLoader(train_set, batch_size=batch_size, shuffle=True), DataLoader(test_set, batch_size=batch_size)


def train_epoch(model: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Train for one epoch; returns the mean loss of the batches."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    running_loss = 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)  # noqa: PLW2901 - the textbook's style
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return running_loss / len(loader)


def evaluate(model: nn.Module, loader: Loader, device: torch.device) -> float:
    """Accuracy, a share."""
    model.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)  # noqa: PLW2901
            predicted = model(images).argmax(dim=1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return correct / total


def main() -> None:
    """Train one epoch for each line on standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds MNIST/raw/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, help="use only the first N digits")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    device = torch.device(arguments.device)
    batch_size = 16 if device.type == "cpu" else 64
    train_loader, test_loader = load(arguments.data, batch_size, arguments.limit)
    model = ChapterNetwork().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    print(json.dumps({"about": f"batches of {batch_size}"}), flush=True)
    for epoch, _ in enumerate(sys.stdin, start=1):
        started = time.perf_counter()
        loss = train_epoch(model, train_loader, optimizer, device)
        seconds = time.perf_counter() - started
        done = {
            "epoch": epoch,
            "seconds": seconds,
            "images_per_second": len(cast(Sized, train_loader.dataset)) / seconds,
            "test_accuracy": evaluate(model, test_loader, device),
            "loss": loss,
        }
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
