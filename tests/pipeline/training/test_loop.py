from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.data.dataset import DataSet, Digits
from pipeline.evaluation import evaluate
from pipeline.networks import Network, build
from pipeline.recipes import RECIPES, Augmentation, ConvArchitecture, DenseArchitecture
from pipeline.training.loop import Epoch, TrainingError, epochs_of, train
from tests.conftest import QUICK

CPU = torch.device("cpu")
EVERYTHING = replace(  # each part of a recipe is switched on
    QUICK, averaging=0.9, label_smoothing=0.05, weight_decay=0.01, augmentation=Augmentation(10, 0.1, 8, 2)
)


class Witness:
    def __init__(self) -> None:
        self.images, self.epochs = 0, list[Epoch]()

    def resume(self, epochs: Sequence[Epoch], images: int) -> None:
        self.epochs = list(epochs)

    def step(self, images: int, loss: Tensor) -> None:
        assert not loss.requires_grad
        self.images += images

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)


def test_network_learns_and_reports(tenth: DataSet) -> None:
    witness = Witness()
    network = train(QUICK, 2, tenth.train, tenth.validation, CPU, 1, [witness])
    first, last = witness.epochs
    assert witness.images == 2 * len(tenth.train)
    assert (first.number, first.step, last.number, last.step) == (1, 86, 2, 172)
    assert [step for step, _ in first.losses + last.losses] == [50, 100, 150]
    assert last.train_loss < first.train_loss
    assert last.learning_rate < first.learning_rate  # one cycle ends near zero
    assert last.validation_accuracy > 0.93
    assert evaluate(network, tenth.validation).accuracy() == last.validation_accuracy
    assert not network.training


def test_the_network_that_is_kept_can_be_watched(tenth: DataSet) -> None:
    few = Digits(tenth.train.images[:512], tenth.train.labels[:512])
    watched: list[Network] = []
    accuracies: list[float] = []

    class Judge(Witness):
        def step(self, images: int, loss: Tensor) -> None:
            accuracies.append(evaluate(watched[0], few).accuracy())

    network = train(EVERYTHING, 2, few, few, CPU, 1, [Judge()], watch=watched.append)
    unwatched = train(EVERYTHING, 2, few, few, CPU, 1).state_dict()
    assert accuracies[0] < accuracies[-1] == evaluate(network, few).accuracy()
    assert all(torch.equal(weights, unwatched[name]) for name, weights in network.state_dict().items())


def test_first_filters_are_kept_from_the_random_start_to_the_end(tenth: DataSet) -> None:
    few = Digits(tenth.train.images[:64], tenth.train.labels[:64])
    grown: dict[int, Tensor] = {}
    recipe = replace(EVERYTHING, network=ConvArchitecture(filters=(4,)))
    network = train(recipe, 40, few, few, CPU, 1, growth=grown)
    assert list(grown) == [0, 1, 2, 3, 4, 6, 10, 16, 25, 40]
    torch.manual_seed(1)
    assert torch.equal(grown[0], build(recipe.network).get_parameter("convolutions.0.weight"))
    assert torch.equal(grown[40], network.get_parameter("convolutions.0.weight"))
    assert not torch.equal(grown[25], grown[40])


def test_dense_network_has_no_filters_to_keep(tenth: DataSet) -> None:
    few = Digits(tenth.train.images[:64], tenth.train.labels[:64])
    grown: dict[int, Tensor] = {}
    train(replace(QUICK, network=DenseArchitecture()), 1, few, few, CPU, 1, growth=grown)
    assert not grown


def test_same_seed_gives_the_same_weights_and_another_seed_others(tenth: DataSet) -> None:
    few = Digits(tenth.train.images[:512], tenth.train.labels[:512])
    one, same, other = (train(EVERYTHING, 1, few, tenth.validation, CPU, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_seed_decides_the_order_too(tenth: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Digits(tenth.train.images[:512], tenth.train.labels[:512])
    seed_weights = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda _: seed_weights(0))  # the same weights at the start
    one, other = (train(QUICK, 1, few, few, CPU, seed).state_dict() for seed in (1, 2))
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_averaged_weights_lag_behind(tenth: DataSet) -> None:
    few = Digits(tenth.train.images[:512], tenth.train.labels[:512])
    last = train(replace(EVERYTHING, averaging=0.0), 1, few, few, CPU, 1).state_dict()
    slow = train(replace(EVERYTHING, averaging=0.99), 1, few, few, CPU, 1).state_dict()
    torch.manual_seed(1)
    start = build(QUICK.network).state_dict()
    for name in last:
        assert (slow[name] - start[name]).norm() < (last[name] - start[name]).norm()


def test_loss_that_is_not_a_number_stops_training(tenth: DataSet) -> None:
    with pytest.raises(TrainingError, match=r"not a number any more by step 86 \(epoch 1\)"):
        train(replace(QUICK, learning_rate=1e30), 3, tenth.train, tenth.validation, CPU, 1)


def test_batch_larger_than_the_data_is_refused(tenth: DataSet) -> None:
    with pytest.raises(TrainingError, match="A batch of 6000 is larger than the 5500 digits"):
        train(replace(QUICK, batch_size=6_000), 1, tenth.train, tenth.validation, CPU, 1)


def test_recipes_have_more_epochs_on_the_tenth_only_where_told() -> None:
    assert (epochs_of(RECIPES["default"], tenth=False), epochs_of(RECIPES["default"], tenth=True)) == (8, 40)
    assert (epochs_of(RECIPES["chapter"], tenth=False), epochs_of(RECIPES["chapter"], tenth=True)) == (5, 5)


@pytest.mark.full
def test_default_on_the_tenth_reads_99_percent_of_the_full_test_set(full_mnist: DataSet, tenth: DataSet) -> None:
    recipe = RECIPES["default"]
    network = train(recipe, epochs_of(recipe, tenth=True), tenth.train, tenth.validation, CPU, 1)
    assert evaluate(network, full_mnist.read_test()).accuracy() >= 0.99
