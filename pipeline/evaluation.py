"""What a network is worth: its answers over a set of digits, and what follows from them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.dataset import Digits
from pipeline.networks import Network, normalise

BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """A network's answers: `logits` float32 [n, 10] and the true `labels` int64 [n], both on the CPU."""

    logits: Tensor
    labels: Tensor

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Float32 [n, 10]; a temperature above 1 makes them less sure."""
        return functional.softmax(self.logits / temperature, dim=1)

    def right(self) -> Tensor:
        """Which answers are right, bool [n]."""
        return self.logits.argmax(dim=1) == self.labels

    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right().sum().item() / len(self.labels)  # 0.976, and not the float32 0.97600001

    def loss(self, temperature: float = 1.0) -> float:
        """Mean cross-entropy in nats."""
        return functional.cross_entropy(self.logits / temperature, self.labels).item()

    def confusion(self) -> Tensor:
        """How often each digit (row) was taken for which (column), int64 [10, 10]."""
        pairs = self.labels * 10 + self.logits.argmax(dim=1)
        return torch.bincount(pairs, minlength=100).reshape(10, 10)

    def reliability(self, temperature: float = 1.0, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
        """Over equal bins of confidence: how many answers, their mean confidence, and the share that is right.

        Returns:
            int64 [bins], float64 [bins] and float64 [bins]; the last two are 0 where there is no answer.
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
        """Expected calibration error: how far confidence and accuracy lie apart, in the mean over equal bins.

        Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
        """
        counts, confidence, accuracy = self.reliability(temperature, bins)
        return float((counts * (accuracy - confidence).abs()).sum() / counts.sum())


def evaluate(network: Network, digits: Digits) -> Evaluation:
    """Ask a network about all digits, on the device where both are."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        logits = [
            network(normalise(images).contiguous(memory_format=torch.channels_last))
            for images in digits.images.split(BATCH)
        ]
    network.train(was_training)
    # a tensor made in inference mode cannot take part in a later gradient; a clone can
    return Evaluation(torch.cat(logits).float().cpu().clone(), digits.labels.cpu())


def fit_temperature(validation: Evaluation) -> float:
    """The temperature that makes the validation split least surprising (minimal cross-entropy).

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
