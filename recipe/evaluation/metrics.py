"""Metrics of a classifier, through the library `evaluate`, with a metric of our own: `evaluate.load` would need the hub."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from transformers import EvalPrediction

from recipe.evaluation.intervals import calibration_error, reliability, wilson_interval
from recipe.inference.text_classifier import decide


class LabelMetrics(evaluate.Metric):
    """Accuracy with its 95 % Wilson interval, macro F1, and, given label names, the scores of each label."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=features)

    def _compute(self, predictions: list[int], references: list[int], label_names: Sequence[str]) -> dict[str, float]:
        right, texts = int(accuracy_score(references, predictions, normalize=False)), len(references)
        macro_f1 = float(f1_score(references, predictions, average="macro", zero_division=0))
        figures = {"accuracy": right / texts, "macro_f1": macro_f1}
        figures |= zip(("accuracy_low", "accuracy_high"), wilson_interval(right, texts), strict=True)
        if label_names:
            ids = range(len(label_names))
            scores = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
            for score, values in zip(("precision", "recall", "f1", "support"), scores, strict=True):
                figures |= {f"{score}_{name}": value.item() for name, value in zip(label_names, values, strict=True)}
        return figures


def label_metrics(predictions: np.ndarray, labels: np.ndarray, label_names: Sequence[str] = ()) -> dict[str, float]:
    """Return the metrics of predicted label ids, int [N], against the true ones, int [N].

    Returns:
        accuracy, accuracy_low, accuracy_high and macro_f1 (over the labels that occur); with label_names also
        precision_X, recall_X, f1_X (0 where the label never occurs) and support_X (texts) of each label X.
    """
    metric = LabelMetrics(keep_in_memory=True)  # and as one process: Trainer has gathered already
    return metric.compute(predictions=predictions, references=labels, label_names=label_names)


def grade_metrics(predictions: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> dict[str, float]:
    """Return how far off predicted grades are: mae (in grades) and quadratic_kappa; {} unless labels are 3 or more whole numbers.

    The kappa is Cohen's with quadratic weights (Cohen, 1968), 1 - mean (t - g)^2 / expected (t - g)^2 where true t and given
    g are drawn independently: 1 where all agree, 0 as by chance; left out where only one grade occurs.

    Args:
        predictions, labels: ids, int [N].
        label_names: by id, such as 1 to 5 stars.
    """
    if len(label_names) < 3 or not all(name.removeprefix("-").isdecimal() for name in label_names):
        return {}
    grades = np.array([float(name) for name in label_names])
    given, true = grades[predictions], grades[labels]
    figures = {"mae": float(abs(true - given).mean())}
    if by_chance := true.var() + given.var() + (true.mean() - given.mean()) ** 2:
        figures["quadratic_kappa"] = float(1 - ((true - given) ** 2).mean() / by_chance)
    return figures


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over texts, in nats, in float64: logits [N, num_labels], labels int [N]."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return accuracy, macro_f1 and loss, for Trainer; the loss has no class weights, so test_loss compares with it.

    Args:
        prediction: logits [N, num_labels] and label ids [N], gathered from all processes.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    figures = label_metrics(np.argmax(logits, axis=-1), labels)
    return {"accuracy": figures["accuracy"], "macro_f1": figures["macro_f1"], "loss": cross_entropy(logits, labels)}


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, label_names: list[str], threshold: float | None = None
) -> dict[str, float]:
    """Return all figures: those of label_metrics and grade_metrics, `loss` and `ece` (the calibration error, see reliability).

    Args:
        logits: float [N, num_labels].
        labels: int [N].
        label_names: by id.
        threshold: of the decision between two labels (see decide), which loss and ece do not depend on. With it,
            accuracy_at_0.5 and macro_f1_at_0.5 are added.
    """
    probabilities = softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    predictions = decide(probabilities, threshold)
    figures = label_metrics(predictions, labels, label_names) | grade_metrics(predictions, labels, label_names)
    figures |= {"loss": cross_entropy(logits, labels), "ece": calibration_error(reliability(probabilities, labels))}
    if threshold is not None:
        plain = label_metrics(decide(probabilities), labels)
        figures |= {f"{name}_at_0.5": plain[name] for name in ("accuracy", "macro_f1")}
    return figures
