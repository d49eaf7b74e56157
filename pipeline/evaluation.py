"""Evaluation: logits of a network over a set of samples, and the metrics computed from them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.dataset import Samples
from pipeline.networks import Network, normalise

BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a network: `logits` float32 [n, classes] and the true `labels` int64 [n], both on the CPU."""

    logits: Tensor
    labels: Tensor

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Compute float32 [n, classes]; a temperature above 1 lowers the confidence."""
        return functional.softmax(self.logits / temperature, dim=1)

    def right(self) -> Tensor:
        """Mark the correct predictions, bool [n]."""
        return self.logits.argmax(dim=1) == self.labels

    def accuracy(self) -> float:
        """Compute the share of correct predictions."""
        return self.right().sum().item() / len(self.labels)  # 0.976, and not the float32 0.97600001

    def loss(self, temperature: float = 1.0) -> float:
        """Compute the mean cross-entropy in nats."""
        return functional.cross_entropy(self.logits / temperature, self.labels).item()

    def confusion(self) -> Tensor:
        """Count the predictions (columns) of each true class (rows), int64 [classes, classes]."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.logits.argmax(dim=1)
        return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def reliability(self, temperature: float = 1.0, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
        """Compute count, mean confidence and accuracy of the predictions in equal bins of confidence.

        Returns:
            int64 [bins], float64 [bins] and float64 [bins]; the last two are 0 in empty bins.
        """
        confidence = self.probabilities(temperature).amax(dim=1)
        of_bin = (confidence * bins).long().clamp(max=bins - 1)
        counts = torch.bincount(of_bin, minlength=bins)
        sums = [
            torch.zeros(bins, dtype=torch.float64).index_add(0, of_bin, of.double())
            for of in (confidence, self.right())
        ]
        mean_confidence, accuracy = (total / counts.clamp(min=1) for total in sums)
        return counts, mean_confidence, accuracy

    def calibration_error(self, temperature: float = 1.0, bins: int = 15) -> float:
        """Compute the expected calibration error: the mean gap between confidence and accuracy over equal bins.

        Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
        """
        counts, confidence, accuracy = self.reliability(temperature, bins)
        return float((counts * (accuracy - confidence).abs()).sum() / counts.sum())


def evaluate(network: Network, samples: Samples) -> Evaluation:
    """Run a network over all samples, on the device that holds both."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        logits = [
            network(normalise(images, network.task).contiguous(memory_format=torch.channels_last))
            for images in samples.images.split(BATCH)
        ]
    network.train(was_training)
    # clone: a tensor made in inference mode cannot enter a later gradient
    return Evaluation(torch.cat(logits).float().cpu().clone(), samples.labels.cpu())


def fit_temperature(validation: Evaluation) -> float:
    """Fit the temperature that minimises the cross-entropy of the validation split.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.
    """
    logarithm = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], lr=0.5, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(validation.logits / logarithm.exp(), validation.labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logarithm.exp().item()
