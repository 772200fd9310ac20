"""Metrics as `evaluate` modules that live in the package: `evaluate.load` would ask the hub for their code."""

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from transformers import EvalPrediction

from recipe.evaluation.intervals import reliability, wilson_interval
from recipe.evaluation.thresholds import decide

FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
PROBABILITIES = datasets.Features(
    {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
)


class Accuracy(evaluate.Metric):
    """Share of texts with the right label."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class AccuracyInterval(evaluate.Metric):
    """95 % interval of the accuracy, by Wilson."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        right = int(accuracy_score(references, predictions, normalize=False))
        return dict(zip(("accuracy_low", "accuracy_high"), wilson_interval(right, len(references)), strict=True))


class MacroF1(evaluate.Metric):
    """Mean F1 of the labels that occur, each counting the same however rare it is."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


class PerLabel(evaluate.Metric):
    """Precision, recall and F1 of each label (0 where a label never occurs), and its number of texts, `support`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=FEATURES)

    def _compute(self, predictions: list[int], references: list[int], label_names: list[str]) -> dict[str, float]:
        ids = list(range(len(label_names)))
        scores = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
        return {
            f"{score}_{name}": values[i].item()
            for i, name in enumerate(label_names)
            for score, values in zip(("precision", "recall", "f1", "support"), scores, strict=True)
        }


class CalibrationError(evaluate.Metric):
    """Expected calibration error over 15 bins of equal width (Guo et al., 2017); predictions are probabilities."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=PROBABILITIES)

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return {"ece": reliability(np.array(predictions), np.array(references)).expected_calibration_error}


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
    return {**headline(np.argmax(logits, axis=-1), labels), "loss": cross_entropy(logits, labels)}


def headline(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy and macro_f1 of label ids, int [N]."""
    # Trainer has gathered already, so each module works as the only process there is, in memory.
    combined = evaluate.combine([Accuracy(keep_in_memory=True), MacroF1(keep_in_memory=True)])
    return combined.compute(predictions=predictions, references=labels)


def accuracy_interval(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return AccuracyInterval(keep_in_memory=True).compute(predictions=predictions, references=labels)


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, label_names: list[str], threshold: float | None = None
) -> dict[str, float]:
    """All figures of a labelled set: the headline with its interval, loss, calibration error, and those of each label X.

    Args:
        logits: float [N, num_labels].
        labels: int [N].
        label_names: by id.
        threshold: of the decision between two labels (see `decide`); loss and calibration error do not know it. With one,
            accuracy_at_0.5 and macro_f1_at_0.5 stand beside.

    Returns:
        accuracy, accuracy_low, accuracy_high, macro_f1, loss, ece, and precision_X, recall_X, f1_X and support_X.
    """
    probabilities = softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    predictions = decide(probabilities, threshold)
    plain = {} if threshold is None else headline(decide(probabilities), labels)
    per_label = PerLabel(keep_in_memory=True)
    return {
        **headline(predictions, labels),
        **accuracy_interval(predictions, labels),
        "loss": cross_entropy(logits, labels),
        **CalibrationError(keep_in_memory=True).compute(predictions=probabilities, references=labels),
        **{f"{name}_at_0.5": value for name, value in plain.items()},
        **per_label.compute(predictions=predictions, references=labels, label_names=label_names),
    }
