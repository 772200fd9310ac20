"""Calibration (optional): the temperature of the head and a decision threshold, from validation texts after training."""

import logging

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from torch import nn

from recipe.errors import RecipeError
from recipe.evaluation.metrics import cross_entropy
from recipe.inference.text_classifier import check_two_labels, set_threshold, text_logits
from recipe.model.classifier import GPT2LastTokenClassifier

logger = logging.getLogger(__name__)

TUNE = "tune"  # as a decision_threshold: choose it on validation texts
TEMPERATURES = (0.1, 10.0)  # the range that is searched; trained networks lie between 0.5 and 5
MIN_TEXTS = 50  # with fewer, the likelihood shows little of how often the model errs


def check_threshold(threshold: str | float | None, validation: Dataset) -> None:
    """Raise RecipeError, before training, for a threshold that does not fit the labels, or cannot be tuned."""
    if threshold is not None:
        check_two_labels(threshold, validation.features["label"].names)
    if threshold == TUNE and len(set(validation["label"])) < 2:
        raise RecipeError(
            "decision_threshold is tune, but all validation texts have the same label: give more of them, or a number"
        )


def check_calibration(model: GPT2LastTokenClassifier) -> None:
    """Raise RecipeError, before training, for a model whose head no temperature can be folded into."""
    logits_layer(model.score)


def calibrate_head(
    model: GPT2LastTokenClassifier, logits: np.ndarray, labels: np.ndarray, text_index: np.ndarray | None = None
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
        set_threshold(model.config, float(expit(logit(threshold) / temperature)))
    return temperature


def fit_temperature(logits: np.ndarray, labels: np.ndarray, text_index: np.ndarray | None = None) -> tuple[float, str]:
    """Return the temperature T with the least cross entropy of logits / T, and a remark to show, mostly "".

    By Guo et al. (2017), "On Calibration of Modern Neural Networks". Where all texts are right the cross entropy falls
    for ever as T does, and few texts say little about errors: in both cases T is at least 1, so that nothing makes the
    model more confident than it was.

    Args:
        logits: float [W, num_labels], of windows (or texts) that the model was not trained on.
        labels: int [N], of the texts.
        text_index: int [W], the text that each window is of; None: each row is a text. T divides the windows' logits.
    """

    def cooled(temperature: float) -> np.ndarray:
        return text_logits(logits.astype(np.float64) / temperature, text_index)

    (low, high), remarks = TEMPERATURES, []
    faultless = (cooled(1).argmax(axis=-1) == labels).all()
    if faultless or len(labels) < MIN_TEXTS:
        low, reason = 1.0, f"all {len(labels)} texts are right" if faultless else f"{len(labels)} texts are few"
        remarks.append(f"{reason}, so it is kept from falling below 1")
    # Over log T, where the scale is even. Of uncut texts the cross entropy is convex in 1 / T, so it has one minimum.
    found = minimize_scalar(
        lambda log_t: cross_entropy(cooled(np.exp(log_t)), labels), bounds=np.log([low, high]), options={"xatol": 1e-8}
    )
    at_bound = [bound for bound in (low, high) if abs(found.x - np.log(bound)) < 1e-4]  # the search only comes near it
    if at_bound and at_bound != [1]:
        remarks.append(f"the best one lies outside {low:g} ... {high:g}: look at the model before relying on it")
    return at_bound[0] if at_bound else float(np.exp(found.x)), "; ".join(remarks)


@torch.no_grad()
def fold_temperature(score: nn.Module, temperature: float) -> None:
    """Divide the head's last layer, and with it every logit, by the temperature: labels stay, and so does the stock form.

    The label of a text of several windows may change where these disagree: their mean weighs the confident ones less.
    """
    for parameter in logits_layer(score).parameters():
        parameter.div_(temperature)


def logits_layer(score: nn.Module) -> nn.Linear:
    """Return the linear layer of a head whose output is the logits; raise RecipeError for a head that has none."""
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
    """Return the threshold on label 1's probability, float [N], with the best macro F1; among equals, the nearest to 0.5.

    Tried are 0.5 and the middle between every two neighbouring probabilities (a middle does not depend on one text's
    rounding), which together divide the texts in every possible way. Of the labels, int [N], both 0 and 1 occur.
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
