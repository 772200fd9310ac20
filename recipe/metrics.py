"""Metrics as `evaluate` modules that live in the package: `evaluate.load` would ask the hub for their code."""

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from transformers import EvalPrediction

FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})


class Accuracy(evaluate.Metric):
    """Share of texts with the right label."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(evaluate.Metric):
    """Mean F1 of the labels that occur, each counting the same however rare it is."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


class PerLabel(evaluate.Metric):
    """Precision, recall and F1 of each label (0 where a label never occurs)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int], label_names: list[str]) -> dict[str, float]:
        ids = list(range(len(label_names)))
        scores = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
        return {
            f"{score}_{name}": float(values[i])
            for i, name in enumerate(label_names)
            for score, values in zip(("precision", "recall", "f1"), scores, strict=False)
        }


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over texts, in nats, in float64: logits [N, num_labels], labels int [N]."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """accuracy, macro_f1 and loss, for Trainer; the loss is not weighted by class_weight, and so comparable with test_loss.

    Args:
        prediction: logits [N, num_labels] and label ids [N], gathered from all processes.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    # Trainer has gathered already, so each module works as the only process there is, in memory.
    combined = evaluate.combine([Accuracy(keep_in_memory=True), MacroF1(keep_in_memory=True)])
    scores = combined.compute(predictions=np.argmax(logits, axis=-1), references=labels)
    return {**scores, "loss": cross_entropy(logits, labels)}


def classification_metrics(logits: np.ndarray, labels: np.ndarray, label_names: list[str]) -> dict[str, float]:
    """`compute_metrics`, and precision_X, recall_X and f1_X for each label X."""
    predictions = np.argmax(logits, axis=-1)
    per_label = PerLabel(keep_in_memory=True)
    return {
        **compute_metrics(EvalPrediction(predictions=logits, label_ids=labels)),
        **per_label.compute(predictions=predictions, references=labels, label_names=label_names),
    }
