from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.data.dataset import MNIST, DataSet
from pipeline.evaluation import evaluate
from pipeline.networks import Network, build
from pipeline.recipes import RECIPES, Augmentation, ConvArchitecture, DenseArchitecture, Recipe, VGGArchitecture
from pipeline.training.callback import Callback, Epoch
from pipeline.training.loop import TrainingError, train
from pipeline.training.run import Run
from tests.conftest import CPU
from tests.trained import QUICK

pytestmark = pytest.mark.slow

EVERYTHING = replace(  # each part of a recipe is switched on
    QUICK, averaging=0.9, label_smoothing=0.05, weight_decay=0.01, augmentation=Augmentation(10, 0.1, 8, 2)
)


def short(recipe: Recipe, epochs: int, dataset: DataSet, digits: int | None = None, seed: int = 1) -> Run:
    """A run on the first digits of the training split, validated on the same number of them."""
    if digits:
        dataset = replace(dataset, train=dataset.train[:digits], validation=dataset.train[:digits])
    return Run(replace(recipe, epochs=epochs, epochs_on_tenth=None), seed, dataset, CPU)


class Witness(Callback):
    """Counts images and keeps the epochs."""

    def __init__(self) -> None:
        self.images, self.epochs = 0, list[Epoch]()

    def step(self, images: int, loss: Tensor) -> None:
        assert not loss.requires_grad
        self.images += images

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)


def test_network_learns_and_reports(tenth: DataSet) -> None:
    witness = Witness()
    trained = train(short(QUICK, 2, tenth), [witness])
    network = trained.network
    first, last = witness.epochs
    assert trained.epochs == witness.epochs
    assert trained.seconds == first.seconds + last.seconds
    assert witness.images == 2 * len(tenth.train)
    assert (first.number, first.step, last.number, last.step) == (1, 86, 2, 172)
    assert [step for step, _ in first.losses + last.losses] == [50, 100, 150]
    assert last.train_loss < first.train_loss
    assert last.learning_rate < first.learning_rate  # one cycle ends near zero
    assert last.validation_accuracy > 0.93
    assert evaluate(network, tenth.validation).accuracy() == last.validation_accuracy
    assert not network.training


def test_callback_can_evaluate_the_network_at_any_step(tenth: DataSet) -> None:
    run = short(EVERYTHING, 2, tenth, 512)
    few = run.dataset.train
    accuracies: list[float] = []

    class Judge(Callback):
        def start(self, network: Network) -> None:
            self.network = network

        def step(self, images: int, loss: Tensor) -> None:
            accuracies.append(evaluate(self.network, few).accuracy())

    network = train(run, [Judge()]).network
    unwatched = train(run).network.state_dict()
    assert accuracies[0] < accuracies[-1] == evaluate(network, few).accuracy()
    assert all(torch.equal(weights, unwatched[name]) for name, weights in network.state_dict().items())


def test_first_filters_are_kept_from_the_random_start_to_the_end(tenth: DataSet) -> None:
    recipe = replace(EVERYTHING, network=ConvArchitecture(filters=(4,)))
    trained = train(short(recipe, 40, tenth, 64))
    network, grown = trained.network, trained.growth
    assert list(grown) == [0, 1, 2, 3, 4, 6, 10, 16, 25, 40]
    torch.manual_seed(1)
    assert torch.equal(grown[0], build(recipe.network, MNIST).get_parameter("convolutions.0.weight"))
    assert torch.equal(grown[40], network.get_parameter("convolutions.0.weight"))
    assert not torch.equal(grown[25], grown[40])


def test_dense_network_has_no_filters_to_keep(tenth: DataSet) -> None:
    assert not train(short(replace(QUICK, network=DenseArchitecture()), 1, tenth, 64)).growth


def test_same_seed_gives_the_same_weights_and_another_seed_others(tenth: DataSet) -> None:
    runs = [short(EVERYTHING, 1, tenth, 512, seed) for seed in (1, 1, 2)]
    one, same, other = (train(run).network.state_dict() for run in runs)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_seed_decides_the_order_too(tenth: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_weights = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda _: seed_weights(0))  # the same weights at the start
    one, other = (train(short(QUICK, 1, tenth, 512, seed)).network.state_dict() for seed in (1, 2))
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_averaged_weights_lag_behind(tenth: DataSet) -> None:
    last = train(short(replace(EVERYTHING, averaging=0.0), 1, tenth, 512)).network.state_dict()
    slow = train(short(replace(EVERYTHING, averaging=0.99), 1, tenth, 512)).network.state_dict()
    torch.manual_seed(1)
    start = build(QUICK.network, MNIST).state_dict()
    for name in last:
        assert (slow[name] - start[name]).norm() < (last[name] - start[name]).norm()


def test_loss_that_is_not_a_number_stops_training(tenth: DataSet) -> None:
    with pytest.raises(TrainingError, match=r"no longer finite at step 50 \(epoch 1\)"):
        train(short(replace(QUICK, learning_rate=1e30), 3, tenth))
    with pytest.raises(
        TrainingError, match=r"no longer finite at step 1 \(epoch 1\)"
    ):  # on the validation digits alone
        train(short(replace(QUICK, learning_rate=1e30), 1, tenth, 64))


@pytest.mark.parametrize(("digits", "batch_size"), [(33, 16), (16, 1)])
def test_single_digit_at_the_end_is_refused_if_it_cannot_be_normalised(
    tenth: DataSet, digits: int, batch_size: int
) -> None:
    deep = replace(QUICK, network=VGGArchitecture(blocks=((4,), (4,), (4,), (4,))), batch_size=batch_size)
    with pytest.raises(TrainingError, match="change the batch size"):
        train(short(deep, 1, tenth, digits))
    flat = replace(deep, network=VGGArchitecture(blocks=((4,), (4,), (4,))))
    assert train(short(flat, 1, tenth, digits)).epochs


def test_batch_larger_than_the_data_is_refused(tenth: DataSet) -> None:
    with pytest.raises(TrainingError, match="A batch of 6000 is larger than the 5500 training pictures: add pictures"):
        train(short(replace(QUICK, batch_size=6_000), 1, tenth))


@pytest.mark.full
def test_default_on_the_tenth_reads_99_percent_of_the_full_test_set(full_mnist: DataSet, tenth: DataSet) -> None:
    network = train(Run(RECIPES["default"], 1, tenth, CPU)).network
    assert evaluate(network, full_mnist.read_test()).accuracy() >= 0.99
