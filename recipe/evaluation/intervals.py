"""Uncertainty: Wilson's interval of an accuracy, McNemar's test of two classifiers, the calibration error."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

SIGNIFICANCE = 0.05  # the usual level


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of the share right / total, by Wilson (1927).

    Unlike the normal approximation it stays within 0 and 1, and keeps its coverage for few texts and shares near 1.
    """
    low, high = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(low), float(high)


@dataclass
class PairedComparison:
    """McNemar's test of a model against a baseline on the same texts.

    `gains` are texts that only the model has right, `losses` those that only the baseline has right.
    """

    gains: int
    losses: int
    p_value: float

    @property
    def verdict(self) -> str:
        if self.p_value >= SIGNIFICANCE:
            return "no clear difference"
        return "better" if self.gains > self.losses else "worse"


def compare_paired(model_right: np.ndarray, baseline_right: np.ndarray) -> PairedComparison:
    """Run McNemar's exact test (1947): were both equally good, each text that only one has right would be a coin toss.

    Args:
        model_right, baseline_right: bool [N], which texts each has right.

    Returns:
        Counts and the two-sided p-value, which is 1 where the two never differ.
    """
    gains = int((model_right & ~baseline_right).sum())
    losses = int((~model_right & baseline_right).sum())
    p_value = float(binomtest(gains, gains + losses, 0.5).pvalue) if gains + losses else 1.0
    return PairedComparison(gains, losses, p_value)


@dataclass
class Reliability:
    """Texts by the model's confidence: arrays with one entry for each bin that holds texts, by rising confidence."""

    counts: np.ndarray  # int64
    accuracy: np.ndarray  # float64, share of the bin's texts whose top label is right
    confidence: np.ndarray  # float64, mean of their top probabilities

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean over texts of their bin's |accuracy - confidence| (Naeini et al., 2015)."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Sort texts by top probability into bins of equal width, (0, 1/15], (1/15, 2/15] ... as Guo et al. (2017) do.

    Args:
        probabilities: float [N, num_labels].
        labels: int [N]. They are compared with the top label, whatever the decision threshold.
    """
    confidences, right = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    indices = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidences)
    counts = np.bincount(indices, minlength=bins)
    filled = counts > 0
    sums = (np.bincount(indices, weights=values, minlength=bins)[filled] for values in (right, confidences))
    accuracy, confidence = (total / counts[filled] for total in sums)
    return Reliability(counts[filled], accuracy, confidence)
