"""One training run as a value: what is trained, from which seed, on which data, on which device."""

from dataclasses import dataclass
from functools import cached_property

import torch

from pipeline.data.dataset import MNIST, DataSet
from pipeline.recipes import Recipe
from pipeline.training.devices import choose_precision, describe_device
from pipeline.training.fingerprint import fingerprint, git_commit, versions


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that decides a trained network, apart from the code; `flow` hands it from room to room.

    Attributes:
        chosen: the network and how it is trained, as the recipe's author wrote it.
        seed: decides the initial weights, the order of the images and their augmentation.
        dataset: training, validation and test split.
        device: where training happens.
    """

    chosen: Recipe
    seed: int
    dataset: DataSet
    device: torch.device

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with the data set's habits."""
        return self.chosen.adapted(self.dataset.habits)

    @property
    def name(self) -> str:
        """The run's name in MLflow, such as `default-1`, `default-1 (tenth)` or `default-1 (fashion-mnist)`."""
        dataset = self.dataset
        other = [dataset.task.dataset] * (dataset.task.dataset != MNIST.dataset) + [dataset.subset] * dataset.is_part
        return f"{self.recipe.name}-{self.seed}" + (f" ({', '.join(other)})" if other else "")

    @property
    def epochs(self) -> int:
        """Passes over the training split: a recipe may ask for more of them on the subset."""
        return (self.recipe.epochs_on_tenth if self.dataset.is_part else None) or self.recipe.epochs

    @property
    def batch_size(self) -> int:
        """Images in a training step; a recipe that adapts takes no more than there are."""
        size = self.recipe.batch_size if self.device.type == "cpu" else self.recipe.batch_size_on_gpu
        return min(size, len(self.dataset.train)) if self.recipe.adapts else size

    @property
    def precision(self) -> torch.dtype:
        """The type in which convolutions and matrix products are computed."""
        return choose_precision(self.device, self.recipe.mixed_precision)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal; two runs with the same one on the same CPU end with the same weights."""
        return fingerprint(self.recipe, self.seed, self.device, self.dataset)

    @property
    def tags(self) -> dict[str, str]:
        """Provenance of the run's result, as tags for MLflow."""
        return {
            "recipe": self.recipe.name,
            "precision": str(self.precision).removeprefix("torch."),
            **provenance(self.fingerprint, self.dataset, self.device),
        }


def provenance(mark: str, dataset: DataSet, device: torch.device) -> dict[str, str]:
    """Tags for MLflow: the fingerprint, the data, the device and the versions behind a result."""
    tags = {
        "dataset": dataset.task.dataset,
        "subset": dataset.subset,
        "data_source": dataset.source,
        "data_digest": dataset.digest,
        "device": describe_device(device),
        "fingerprint": mark,
        "git_commit": git_commit(),
        **{f"version.{name}": number for name, number in versions().items()},
    }
    if dataset.is_part:
        tags["warning"] = "Trained on the bundled tenth of MNIST: expect lower accuracy."
    return tags
