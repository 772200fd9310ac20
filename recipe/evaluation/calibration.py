"""Whether a model is as sure as it is right: the calibration error, and the temperature that mends it."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from recipe.data.windows import average_windows
from recipe.evaluation.metrics import cross_entropy

TEMPERATURES = (0.1, 10.0)  # the range that is searched; trained networks lie between 0.5 and 5
MIN_TEXTS = 50  # fewer, and the likelihood says little about how often the model errs


@dataclass
class Temperature:
    """What the logits are divided by, and what there is to say about it."""

    value: float
    remark: str


def fit_temperature(logits: np.ndarray, labels: np.ndarray, owners: np.ndarray | None = None) -> Temperature:
    """The temperature that minimizes the cross entropy of logits / T (Guo et al., 2017, "On Calibration of Modern
    Neural Networks").

    T is searched from 0.1 to 10. Where all texts are right the cross entropy falls for ever as T does, and fewer than 50
    texts say little about errors: in both cases T is at least 1, so that nothing makes the model surer than it was.

    Args:
        logits: float [W, num_labels], of windows of texts (or of whole ones) that the model was not trained on.
        labels: int [N], of the texts.
        owners: int [W], the text that each window is of; None: each row is a text. The temperature divides the logits of
            each window, and what is minimized is the cross entropy of the texts' mean probabilities.
    """

    def cooled(temperature: float) -> np.ndarray:
        return average_windows(logits.astype(np.float64) / temperature, owners)

    faultless, few = bool((cooled(1).argmax(axis=-1) == labels).all()), len(labels) < MIN_TEXTS
    low, high = (1.0 if faultless or few else TEMPERATURES[0]), TEMPERATURES[1]
    # Over log T, where the scale is even. Of whole texts the cross entropy is convex in 1 / T, so it has one minimum.
    bounds = (np.log(low), np.log(high))
    found = minimize_scalar(lambda log_t: cross_entropy(cooled(np.exp(log_t)), labels), bounds=bounds,
                            method="bounded", options={"xatol": 1e-8})  # fmt: skip
    value = float(np.exp(found.x))
    at_bound = next((bound for bound in (low, high) if abs(np.log(value / bound)) < 1e-4), None)
    if at_bound is not None:
        value = at_bound  # the search only comes near
    reasons = []
    if faultless or few:
        what = f"all {len(labels)} texts are right" if faultless else f"{len(labels)} texts are few"
        reasons.append(f"{what}, so it is kept from falling below 1")
    if at_bound is not None and not (at_bound == low == 1.0):
        reasons.append(f"the best one lies outside {low:g} ... {high:g}: look at the model before relying on it")
    return Temperature(value, "; ".join(reasons))


@torch.no_grad()
def fold_temperature(score: nn.Linear, temperature: float) -> None:
    """Divides the head, and with it every logit, by the temperature: labels stay, and the checkpoint stays stock.

    The label of a text of several windows may change where these disagree: their mean weighs the surer ones less.
    """
    score.weight.div_(temperature)
    if score.bias is not None:
        score.bias.div_(temperature)
