"""From probabilities to a label: the likeliest, or by a threshold on the second of two, or none where unsure."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit
from sklearn.metrics import roc_curve

from recipe.errors import RecipeError

TUNE = "tune"


def parse_threshold(value: str | float | None, tunable: bool = False) -> str | float | None:
    """`decision_threshold` as a user writes it: a number between 0 and 1, or, where it can be tuned, "tune".

    Raises:
        RecipeError (a ValueError): anything else.
    """
    if value is None or (tunable and value == TUNE):
        return value
    try:
        threshold = float(value)
    except (TypeError, ValueError):
        threshold = -1.0
    if not 0 < threshold < 1:  # nor NaN
        words = f"{TUNE}, or a number" if tunable else "a number"
        raise RecipeError(f"decision_threshold is {value!r}: take {words} between 0 and 1, such as 0.3")
    return threshold


def parse_abstain_below(value: str | float | None) -> float | None:
    if value is None:
        return None
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise RecipeError(f"abstain_below is {value!r}: take a probability above 0, up to 1, such as 0.9")
    return share


def check_two_labels(threshold: str | float | None, label_names: Sequence[str]) -> None:
    if threshold is not None and len(label_names) != 2:
        raise RecipeError(
            f"decision_threshold is {threshold}, but there are {len(label_names)} labels: a threshold decides between two;"
            " leave it out"
        )


def decide(probabilities: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Ids of the labels given, int64 [N]: the likeliest, or, with a threshold, 1 where its probability is at least that.

    Args:
        probabilities: float [N, num_labels]; with a threshold, num_labels is 2.
    """
    if threshold is None:
        return probabilities.argmax(axis=-1)
    return (probabilities[:, 1] >= threshold).astype(np.int64)


def is_unsure(probabilities: np.ndarray, abstain_below: float | None) -> np.ndarray:
    """bool [N]: whether the top probability is under the bound; nowhere, without a bound."""
    return probabilities.max(axis=-1) < (0 if abstain_below is None else abstain_below)


def tune_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold on label 1's probability with the best macro F1; among equals, the one nearest 0.5.

    Tried are 0.5 and the middle between every two neighbouring probabilities (a middle is not tied to one text's
    rounding), which together give every division that any threshold could.

    Args:
        probabilities: float [N], of label 1.
        labels: int [N], 0 or 1, both of which occur.
    """
    false_rate, true_rate, scores = roc_curve(labels, probabilities, drop_intermediate=False)
    positives, negatives = int(labels.sum()), int(len(labels) - labels.sum())
    true_positives, false_positives = true_rate * positives, false_rate * negatives
    misses, rest = positives - true_positives, negatives - false_positives
    f1_of_1 = 2 * true_positives / (2 * true_positives + false_positives + misses)
    f1_of_0 = 2 * rest / (2 * rest + misses + false_positives)
    # Entry i is the division with scores[i] and what lies above it labelled 1; entry 0 labels nothing so.
    macro_f1 = (f1_of_0 + f1_of_1) / 2
    edges = np.concatenate([[1.0], scores[1:], [0.0]])  # entry i lies between edges[i + 1] and edges[i]
    low, high = edges[1:], edges[:-1]
    candidates = np.where((low < 0.5) & (high >= 0.5), 0.5, (low + high) / 2)
    best = np.flatnonzero(np.isclose(macro_f1, macro_f1.max(), rtol=0, atol=1e-12))
    chosen = candidates[best][np.abs(candidates[best] - 0.5).argmin()]
    return float(np.clip(chosen, np.nextafter(0, 1), np.nextafter(1, 0)))  # a probability may be rounded to 0 or 1


def after_temperature(threshold: float, temperature: float) -> float:
    """The threshold that gives the same labels once the logits are divided by the temperature."""
    return float(expit(logit(threshold) / temperature))
