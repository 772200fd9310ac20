"""Uncertainty: Wilson's interval of an accuracy, McNemar's test of two classifiers, the calibration error."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

SIGNIFICANCE = 0.05  # the usual level


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of the share right / total, by Wilson (1927).

    Unlike the normal approximation it stays within 0 and 1, and keeps its coverage for few texts and shares near 1.
    """
    low, high = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(low), float(high)


class PairedComparison(NamedTuple):
    """McNemar's test of a model against a baseline on the same texts."""

    gains: int  # texts that only the model has right
    losses: int  # texts that only the baseline has right
    p_value: float  # two-sided; 1 where the two never differ

    @property
    def verdict(self) -> str:
        if self.p_value >= SIGNIFICANCE:
            return "no clear difference"
        return "better" if self.gains > self.losses else "worse"


def compare_paired(model_right: np.ndarray, baseline_right: np.ndarray) -> PairedComparison:
    """Run McNemar's exact test (1947): were both equally good, each text that only one has right would be a coin toss.

    Args:
        model_right, baseline_right: bool [N], which texts each has right.
    """
    gains = int((model_right & ~baseline_right).sum())
    losses = int((~model_right & baseline_right).sum())
    return PairedComparison(gains, losses, float(binomtest(gains, gains + losses).pvalue) if gains + losses else 1.0)


def format_p(p: float) -> str:
    """Return a p value with four digits, or as under the smallest of these."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """Sort texts by top probability into bins of equal width, (0, 1/15], (1/15, 2/15] ... as Guo et al. (2017) do.

    Args:
        probabilities: float [N, num_labels].
        labels: int [N]. They are compared with the top label, whatever the decision threshold.

    Returns:
        A row for each bin that holds texts, by rising confidence: `texts` (how many), `accuracy` (share whose top label
        is right) and `confidence` (mean of their top probabilities).
    """
    texts = pd.DataFrame({"right": probabilities.argmax(axis=-1) == labels, "top": probabilities.max(axis=-1)})
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], texts["top"])
    return texts.groupby(bin_of).agg(texts=("right", "size"), accuracy=("right", "mean"), confidence=("top", "mean"))


def calibration_error(curve: pd.DataFrame) -> float:
    """Return ECE (Naeini et al., 2015) of reliability's bins: the mean over texts of |accuracy - confidence|."""
    return float(np.average((curve["accuracy"] - curve["confidence"]).abs(), weights=curve["texts"]))
