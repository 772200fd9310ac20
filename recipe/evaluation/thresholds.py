"""Thresholds (optional): the probability from which on the second of two labels is predicted, and abstaining."""

import numpy as np

TUNE = "tune"  # as a decision_threshold: choose it on validation texts


def is_unsure(probabilities: np.ndarray, abstain_below: float) -> np.ndarray:
    """Return bool [N]: whether the top probability, of float [N, num_labels], is under the bound."""
    return probabilities.max(axis=-1) < abstain_below


def tune_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold on label 1's probability with the best macro F1; among equals, the one nearest 0.5.

    Tried are 0.5 and the middle between every two neighbouring probabilities (a middle does not depend on one text's
    rounding), which together divide the texts in every possible way.

    Args:
        probabilities: float [N], of label 1.
        labels: int [N], 0 or 1, both of which occur.
    """
    edges = np.unique(np.concatenate([[0.0], probabilities, [1.0]]))
    low, high = edges[:-1], edges[1:]
    candidates = np.where((low < 0.5) & (high >= 0.5), 0.5, (low + high) / 2)
    # Of each label, the texts under each candidate, and those from it on.
    under = [np.searchsorted(np.sort(probabilities[labels == label]), candidates) for label in (0, 1)]
    over = [(labels == label).sum() - under[label] for label in (0, 1)]
    f1 = [2 * right / (2 * right + under[1] + over[0]) for right in (under[0], over[1])]
    macro_f1 = (f1[0] + f1[1]) / 2
    best = candidates[np.isclose(macro_f1, macro_f1.max(), rtol=0, atol=1e-12)]
    chosen = best[np.abs(best - 0.5).argmin()]
    return float(np.clip(chosen, np.nextafter(0, 1), np.nextafter(1, 0)))  # the middle of two close ones is rounded


def after_temperature(threshold: float, temperature: float) -> float:
    """Return the threshold that predicts the same labels once the logits are divided by the temperature."""
    odds = (threshold / (1 - threshold)) ** (1 / temperature)
    return odds / (1 + odds)
