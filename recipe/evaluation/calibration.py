"""Calibration (optional): what validation texts decide after training, the temperature of the head and a threshold."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from torch import nn

from recipe.errors import RecipeError
from recipe.evaluation.metrics import cross_entropy
from recipe.inference.text_classifier import check_two_labels, set_threshold, text_logits

if TYPE_CHECKING:
    from datasets import Dataset

    from recipe.model.classifier import GPT2LastTokenClassifier

logger = logging.getLogger(__name__)

TUNE = "tune"  # as a decision_threshold: choose it on validation texts
TEMPERATURES = (0.1, 10.0)  # the range that is searched; trained networks lie between 0.5 and 5
MIN_TEXTS = 50  # with fewer, the likelihood shows little of how often the model errs


def check_threshold(threshold: str | float | None, validation: "Dataset") -> None:
    """Raise RecipeError, before training, for a threshold that does not fit the labels, or cannot be tuned."""
    if threshold is not None:
        check_two_labels(threshold, validation.features["label"].names)
    if threshold == TUNE and len(set(validation["label"])) < 2:
        raise RecipeError(
            "decision_threshold is tune, but all validation texts have the same label: give more of them, or a number"
        )


def check_calibration(model: "GPT2LastTokenClassifier") -> None:
    """Raise RecipeError, before training, for a model whose head no temperature can be folded into."""
    logits_layer(model.score)


def fit_to_validation(
    model: "GPT2LastTokenClassifier",
    logits: np.ndarray,
    labels: Sequence[int],
    text_index: Sequence[int] | None = None,
    calibrate: bool = False,
    decision_threshold: str | float | None = None,
) -> float | None:
    """Calibrate the model and set its decision threshold, as far as asked for; both become part of the model.

    Every process of a run calls this.

    Args:
        logits: float [W, num_labels], the model's on validation texts, or, with `text_index`, on their windows.
        labels: of the texts, in their order.
        decision_threshold: a number, "tune", or None, which takes the likeliest label, whatever an earlier run chose.

    Returns:
        The temperature that the head was divided by, or None without calibrate.
    """
    old = getattr(model.config, "decision_threshold", None)
    if old is not None:
        logger.warning("the decision threshold of %.4g was tuned to the model before this training: not kept", old)
    model.config.decision_threshold = None
    index, labels = None if text_index is None else np.asarray(text_index), np.asarray(labels)
    temperature = calibrate_head(model, logits, labels, index) if calibrate else None
    if decision_threshold == TUNE:
        probabilities = softmax(text_logits(logits / (temperature or 1), index), axis=-1)
        decision_threshold = tune_threshold(probabilities[:, 1], labels)
    set_threshold(model.config, decision_threshold)
    if decision_threshold is not None:
        logger.info(
            "Decision threshold: the label %r is predicted where its probability is at least %.4g;"
            " predict.py and evaluate_model.py follow it, pipeline() does not know it and takes 0.5",
            model.config.id2label[1], decision_threshold,
        )  # fmt: skip
    return temperature


def calibrate_head(
    model: "GPT2LastTokenClassifier", logits: np.ndarray, labels: np.ndarray, text_index: np.ndarray | None = None
) -> float:
    """Fit a temperature to the model's answers (see fit_temperature), divide its head by it, and return it.

    A decision threshold moves along, so that labels stay the same (see fold_temperature).
    """
    temperature, remark = fit_temperature(logits, labels, text_index)
    logger.info("Temperature %.4g, fitted to %d validation texts", temperature, len(labels))
    if remark:
        logger.warning("Temperature %.4g: %s", temperature, remark)
    fold_temperature(model.score, temperature)
    if (threshold := getattr(model.config, "decision_threshold", None)) is not None:
        set_threshold(model.config, after_temperature(threshold, temperature))
    return temperature


def fit_temperature(logits: np.ndarray, labels: np.ndarray, text_index: np.ndarray | None = None) -> tuple[float, str]:
    """Return the temperature T with the least cross entropy of logits / T, and a remark to show, mostly "".

    By Guo et al. (2017), "On Calibration of Modern Neural Networks". Where all texts are right the cross entropy falls
    for ever as T does, and few texts say little about errors: in both cases T is at least 1, so that nothing makes the
    model more confident than it was.

    Args:
        logits: float [W, num_labels], of windows (or texts) that the model was not trained on.
        labels: int [N], of the texts.
        text_index: int [W], the text that each window is of; None: each row is a text. The temperature divides the
            logits of each window, and the cross entropy is that of the texts' mean probabilities.
    """

    def cooled(temperature: float) -> np.ndarray:
        return text_logits(logits.astype(np.float64) / temperature, text_index)

    (low, high), reasons = TEMPERATURES, []
    faultless = bool((cooled(1).argmax(axis=-1) == labels).all())
    if faultless or len(labels) < MIN_TEXTS:
        low, reason = 1.0, f"all {len(labels)} texts are right" if faultless else f"{len(labels)} texts are few"
        reasons.append(f"{reason}, so it is kept from falling below 1")
    # Over log T, where the scale is even. Of uncut texts the cross entropy is convex in 1 / T, so it has one minimum.
    found = minimize_scalar(
        lambda log_t: cross_entropy(cooled(np.exp(log_t)), labels), bounds=np.log([low, high]), options={"xatol": 1e-8}
    )
    temperature = float(np.exp(found.x))
    for bound in (low, high):
        if abs(np.log(temperature / bound)) < 1e-4:
            temperature = bound  # the search only comes near it
    if temperature in (low, high) and temperature != 1:
        reasons.append(f"the best one lies outside {low:g} ... {high:g}: look at the model before relying on it")
    return temperature, "; ".join(reasons)


@torch.no_grad()
def fold_temperature(score: nn.Module, temperature: float) -> None:
    """Divide the head's last layer, and with it every logit, by the temperature: labels stay, and so does the stock form.

    The label of a text of several windows may change where these disagree: their mean weighs the confident ones less.
    """
    for parameter in logits_layer(score).parameters():
        parameter.div_(temperature)


def logits_layer(score: nn.Module) -> nn.Linear:
    """Return the linear layer of a head whose output is the logits.

    Raises:
        RecipeError: a head that is neither one nn.Linear nor an nn.Sequential that ends in one.
    """
    if hasattr(score, "modules_to_save"):  # peft trains a copy of the head
        score = score.modules_to_save["default"]
    last = score[-1] if type(score) is nn.Sequential and len(score) else score
    if type(last) is not nn.Linear:
        raise RecipeError(
            f"calibrate: the head is a {type(score).__name__}, and only the logits of an nn.Linear, or of an nn.Sequential"
            " that ends in one, can be divided by a temperature: leave out --calibrate"
        )
    return last


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
    return float(expit(logit(threshold) / temperature))
