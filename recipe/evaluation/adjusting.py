"""What validation texts settle after the training: the temperature of the head, and where two labels part."""

import logging

import numpy as np
import pandas as pd
from scipy.special import softmax

from recipe.data.windows import average_windows
from recipe.evaluation.calibration import fit_temperature, fold_temperature
from recipe.evaluation.thresholds import TUNE, after_temperature, tune_threshold
from recipe.inference.text_classifier import TextClassifier

logger = logging.getLogger(__name__)


def adjust_to_validation(
    classifier: TextClassifier, validation: pd.DataFrame, calibrate: bool, decision_threshold: str | float | None
) -> float | None:
    """Calibrates the model and sets its decision threshold, as far as asked for; both then are part of the model.

    Args:
        validation: `text` and `label` (ids).
        decision_threshold: a number, "tune", or None, which leaves the likeliest label.

    Returns:
        the temperature, or None without calibrate.
    """
    temperature = None
    if calibrate or decision_threshold == TUNE:
        logits, owners = classifier.window_logits(validation["text"].tolist())
        labels = validation["label"].to_numpy()
    if calibrate:
        temperature = calibrate_head(classifier, logits, labels, owners)
        logits = logits / temperature
    if decision_threshold == TUNE:
        decision_threshold = tune_threshold(softmax(average_windows(logits, owners), axis=-1)[:, 1], labels)
    store_threshold(classifier, decision_threshold)
    if decision_threshold is not None:
        logger.info(
            "Decision threshold: the label %r is given where its probability is at least %.4g; predict.py and evaluate.py"
            " keep to that, pipeline() does not know it and takes 0.5",
            classifier.label_names[1], decision_threshold,
        )  # fmt: skip
    return temperature


def calibrate_head(
    classifier: TextClassifier, logits: np.ndarray, labels: np.ndarray, owners: np.ndarray | None = None
) -> float:
    """Fits the temperature to what the classifier says of texts (see fit_temperature), folds it into the head, returns it.

    A decision threshold moves along, so that labels stay what they were (see fold_temperature).
    """
    temperature = fit_temperature(logits, labels, owners)
    logger.info("Temperature %.4g, fitted to %d validation texts", temperature.value, len(labels))
    if temperature.remark:
        logger.warning("Temperature %.4g: %s", temperature.value, temperature.remark)
    fold_temperature(classifier.model.score, temperature.value)
    if classifier.decision_threshold is not None:
        store_threshold(classifier, after_temperature(classifier.decision_threshold, temperature.value))
    return temperature.value


def store_threshold(classifier: TextClassifier, threshold: float | None) -> None:
    """Sets the threshold in the classifier and in its model's config, with which it is saved."""
    classifier.set_threshold(threshold)
    classifier.model.config.decision_threshold = threshold
