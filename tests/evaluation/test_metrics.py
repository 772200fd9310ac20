import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    cohen_kappa_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    precision_score,
    recall_score,
)
from transformers import EvalPrediction

from recipe.evaluation.intervals import wilson_interval
from recipe.evaluation.metrics import classification_metrics, compute_metrics, grade_metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, size=50)


def test_figures_are_scikit_learns():
    scores = classification_metrics(LOGITS, LABELS, ["a", "b", "c"])
    predictions = LOGITS.argmax(1)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert scores["accuracy"] == pytest.approx((predictions == LABELS).mean())
    assert scores["macro_f1"] == pytest.approx(f1_score(LABELS, predictions, average="macro"))
    assert scores["loss"] == pytest.approx(log_loss(LABELS, probabilities), abs=1e-5)
    assert scores["precision_b"] == pytest.approx(precision_score(LABELS, predictions, average=None)[1])
    assert (scores["accuracy_low"], scores["accuracy_high"]) == wilson_interval((predictions == LABELS).sum(), 50)
    accuracy, confidence = calibration_curve(predictions == LABELS, probabilities.max(1), n_bins=15)
    counts = np.histogram(probabilities.max(1), bins=np.linspace(0, 1, 16))[0]
    assert scores["ece"] == pytest.approx(np.average(abs(accuracy - confidence), weights=counts[counts > 0]), abs=1e-6)
    assert [scores[f"support_{name}"] for name in "abc"] == np.bincount(LABELS).tolist()
    assert set(scores) == {"accuracy", "accuracy_low", "accuracy_high", "macro_f1", "loss", "ece"} | {
        f"{s}_{n}" for s in ("precision", "recall", "f1", "support") for n in "abc"
    }


def test_a_threshold_moves_the_labels_and_nothing_else():
    logits, labels = LOGITS[:, :2], LABELS % 2
    second = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    plain, moved = (classification_metrics(logits, labels, ["a", "b"], threshold) for threshold in (None, 0.3))
    assert moved["accuracy"] == pytest.approx(((second >= 0.3) == labels).mean())
    assert moved["accuracy"] != plain["accuracy"]
    assert moved["recall_b"] == pytest.approx(recall_score(labels, second >= 0.3))
    assert (moved["loss"], moved["ece"]) == (plain["loss"], plain["ece"])
    assert (moved["accuracy_at_0.5"], moved["macro_f1_at_0.5"]) == (plain["accuracy"], plain["macro_f1"])


def test_a_label_that_never_occurs_counts_only_for_itself():
    scores = classification_metrics(np.eye(4)[[0, 1, 1]], np.array([0, 1, 1]), ["a", "b", "c", "d"])
    assert scores["macro_f1"] == 1
    assert scores["f1_d"] == scores["support_d"] == 0


@pytest.mark.parametrize("label", [0, 1])
def test_one_text(label):
    scores = classification_metrics(np.array([[3.0, -3.0]]), np.array([label]), ["a", "b"])
    assert scores["accuracy"] == scores["macro_f1"] == 1 - label
    assert (scores["accuracy_low"] == 0) == bool(label)
    assert scores["ece"] == pytest.approx(1 / (1 + np.exp(-6 if label else 6)))


def test_trainer_gets_three_figures():
    scores = compute_metrics(EvalPrediction(predictions=LOGITS, label_ids=LABELS))
    assert list(scores) == ["accuracy", "macro_f1", "loss"]


@pytest.mark.parametrize("names", [["1", "2", "3"], ["-1", "0", "1"], ["1", "3", "10"]])
def test_grades_have_the_error_and_the_kappa_of_scikit_learn(names):
    predictions, grades = LOGITS.argmax(1), np.array([int(name) for name in names])
    true, given = grades[LABELS], grades[predictions]
    kappa = cohen_kappa_score(true, given, labels=range(grades.min(), grades.max() + 1), weights="quadratic")
    expected = {"mae": mean_absolute_error(true, given), "quadratic_kappa": kappa}
    assert grade_metrics(predictions, LABELS, names) == pytest.approx(expected)
    figures = classification_metrics(LOGITS, LABELS, names)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_only_three_or_more_whole_numbers_are_grades():
    predictions = LOGITS.argmax(1)
    assert grade_metrics(predictions, LABELS, ["1", "2", "b"]) == {}
    assert grade_metrics(predictions % 2, LABELS % 2, ["0", "1"]) == {}
    assert grade_metrics(np.zeros(5, int), np.zeros(5, int), ["1", "2", "3"]) == {"mae": 0.0}
