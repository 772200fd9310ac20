"""Peers: GPT-2 beside what one would take instead, on the same splits, by accuracy, time and size."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from recipe.errors import first_line
from recipe.evaluation.intervals import SIGNIFICANCE, compare_paired, format_p
from recipe.evaluation.metrics import label_metrics

logger = logging.getLogger(__name__)

TITLES = {
    "gpt2": "GPT-2",
    "tfidf": "TF-IDF of words + logistic regression",
    "ngrams": "hashed character n-grams + logistic regression",
    "minilm": "MiniLM sentence embedding + linear head",
    "setfit": "SetFit of MiniLM, 16 texts a label",
}
# What is compared, and the words for it; of the first two more is better.
FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "seconds_to_train": "seconds to train",
    "seconds_to_classify": "seconds to classify the test",
    "megabytes": "MB on disk",
}
BETTER_HIGH = ("accuracy", "macro_f1")


@dataclass(frozen=True, eq=False)
class Task:
    """The training texts, and how every peer trains on them."""

    texts: list[str]
    labels: np.ndarray  # int [N]
    class_weight: str = "none"
    seed: int = 42
    device: torch.device = torch.device("cpu")
    progress: bool = False


class Fitted(NamedTuple):
    """A classifier that is ready to use."""

    predict: Callable[[list[str]], np.ndarray]  # texts -> label ids, int [N]
    size: int  # bytes of what one has to keep
    timings: Mapping[str, float] = {}  # seconds_to_train where it was trained before, seconds_with_cached_features


Fits = Mapping[str, Callable[[Task], Fitted]]


def measure_peers(
    fits: Fits,
    task: Task,
    texts: list[str],
    labels: np.ndarray,
    keep: Callable[[dict[str, dict[str, Any]]], None] = lambda measured: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Fit every peer in turn, and measure it on the same test texts.

    Args:
        fits: by the names of TITLES, `gpt2` first, which the others are compared with.
        texts, labels: of the test; labels int [N].
        keep: is given the figures so far after each peer.

    Returns:
        Of each peer its figures: those of label_metrics and FIGURES, and, but for `gpt2`, `mcnemar_p`, `gpt2_alone` and
        `peer_alone` (texts that only one has right). And of each that cannot be fitted here, the reason.
    """
    measured, skipped, right = {}, {}, {}
    for name, fit in fits.items():
        logger.info("%s ...", TITLES[name])
        start = perf_counter()
        try:
            fitted = fit(task)
            trained = perf_counter()
            predictions = fitted.predict(texts)
        except Exception as error:  # whatever an optional package raises: GPT-2 may have trained for hours by then
            if name == "gpt2":
                raise
            skipped[name] = first_line(error)
            continue
        timings = {"seconds_to_train": trained - start, "seconds_to_classify": perf_counter() - trained}
        figures = label_metrics(predictions, labels) | timings | fitted.timings | {"megabytes": fitted.size / 1e6}
        right[name] = predictions == labels
        if name != "gpt2":
            test = compare_paired(right["gpt2"], right[name])
            figures |= {"mcnemar_p": test.p_value, "gpt2_alone": test.gains, "peer_alone": test.losses}
        measured[name] = figures
        logger.info("%s: accuracy %.3f", TITLES[name], figures["accuracy"])
        keep(measured)
    return measured, skipped


def peers_table(measured: Mapping[str, dict[str, Any]]) -> str:
    """Return the table: a row a peer."""
    table = pd.DataFrame.from_dict(measured, orient="index")
    shown = pd.DataFrame({"accuracy": table["accuracy"].map("{:.3f}".format)})
    shown["95 % interval"] = [
        f"{low:.3f} - {high:.3f}" for low, high in table[["accuracy_low", "accuracy_high"]].values
    ]
    shown["macro F1"] = table["macro_f1"].map("{:.3f}".format)
    if "mcnemar_p" in table:
        shown["McNemar's p"] = ["" if np.isnan(p) else format_p(p) for p in table["mcnemar_p"]]
    titles = {"seconds_to_train": "train, s", "seconds_with_cached_features": "cached, s"}
    titles |= {"seconds_to_classify": "classify, s", "megabytes": "MB"}
    for name in (name for name in titles if name in table):
        shown[titles[name]] = ["" if np.isnan(number) else f"{number:.4g}" for number in table[name]]
    shown.index = [TITLES[name] for name in measured]
    return shown.to_string()


def compare_with_gpt2(measured: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a sentence for each of FIGURES: which peers are ahead of GPT-2, and by what."""
    gpt2, sentences = measured["gpt2"], []
    for name, words in FIGURES.items():
        sign = 1 if name in BETTER_HIGH else -1
        ahead = []
        for peer, figures in measured.items():
            if sign * figures[name] > sign * gpt2[name]:
                digits = "{:.3f}" if name in BETTER_HIGH else "{:.3g}"
                against = f"{digits.format(figures[name])} against {digits.format(gpt2[name])}"
                if name == "accuracy":
                    p_value = figures["mcnemar_p"]
                    verdict = "a clear difference" if p_value < SIGNIFICANCE else "no clear difference"
                    against += f", p {format_p(p_value)}: {verdict}"
                ahead.append(f"{TITLES[peer]} ({against})")
        verdict = f"GPT-2 loses to {'; '.join(ahead)}" if ahead else "no alternative is better"
        if math.isnan(gpt2[name]):
            verdict = "not known, since the run was interrupted and resumed"
        sentences.append(f"{words[0].upper()}{words[1:]}: {verdict}.")
    return sentences
