import pytest
import torch
from torch.nn import functional

from pipeline.data.dataset import MNIST, DataSet
from pipeline.evaluation import Evaluation, evaluate, fit_temperature
from pipeline.networks import Network, normalise


def test_predictions_do_not_depend_on_batches(network: Network, tenth: DataSet) -> None:
    judged = evaluate(network, tenth.read_test())
    with torch.inference_mode():
        expected = network(normalise(tenth.read_test().images, MNIST))
    torch.testing.assert_close(judged.logits, expected, atol=1e-4, rtol=1e-4)
    assert judged.accuracy() == pytest.approx((expected.argmax(1) == tenth.read_test().labels).float().mean().item())


def test_confusion_counts_rows_as_truth() -> None:
    logits = functional.one_hot(torch.tensor([1, 7, 7]), 10).float()
    confusion = Evaluation(logits, torch.tensor([1, 1, 7])).confusion()
    assert confusion.sum() == 3
    assert confusion[1, 1] == confusion[1, 7] == confusion[7, 7] == 1


def test_calibration_error_of_known_predictions() -> None:
    # ten predictions with confidence 0.8, six of them correct: a gap of 0.2
    probabilities = torch.full((10, 10), 0.2 / 9)
    probabilities[:, 0] = 0.8
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert Evaluation(probabilities.log(), labels).calibration_error() == pytest.approx(0.2, abs=1e-6)


def test_temperature_undoes_overconfidence() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 10, generator=generator) * 2
    labels = torch.multinomial(functional.softmax(logits, dim=1), 1, generator=generator).squeeze(1)
    overconfident = Evaluation(logits * 3, labels)
    temperature = fit_temperature(overconfident)
    assert temperature == pytest.approx(3, rel=0.05)
    assert overconfident.loss(temperature) < overconfident.loss()
    assert overconfident.calibration_error(temperature) < 0.02 < overconfident.calibration_error()


def test_evaluation_keeps_the_mode_of_the_network(network: Network, tenth: DataSet) -> None:
    network.train()
    evaluate(network, tenth.validation)
    assert network.training
    network.eval()
    evaluate(network, tenth.validation)
    assert not network.training


def test_gaps_of_different_bins_do_not_cancel() -> None:
    # ten predictions with confidence 0.8 and accuracy 0.6, ten with 0.6 and 0.8: no gap in the mean over all
    probabilities = torch.cat([torch.full((10, 10), 0.2 / 9), torch.full((10, 10), 0.4 / 9)])
    probabilities[:10, 0], probabilities[10:, 0] = 0.8, 0.6
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 8 + [1] * 2)
    judged = Evaluation(probabilities.log(), labels)
    assert judged.calibration_error() == pytest.approx(0.2, abs=1e-6)
    assert judged.calibration_error(bins=1) == pytest.approx(0.0, abs=1e-6)
