import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, precision_score
from transformers import EvalPrediction

from recipe.metrics import classification_metrics, compute_metrics

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
    assert set(scores) == {"accuracy", "macro_f1", "loss"} | {
        f"{s}_{n}" for s in ("precision", "recall", "f1") for n in "abc"
    }


def test_a_label_that_never_occurs_counts_only_for_itself():
    scores = classification_metrics(np.eye(4)[[0, 1, 1]], np.array([0, 1, 1]), ["a", "b", "c", "d"])
    assert scores["macro_f1"] == 1
    assert scores["f1_d"] == 0


def test_trainer_gets_the_headline():
    scores = compute_metrics(EvalPrediction(predictions=LOGITS, label_ids=LABELS))
    assert list(scores) == ["accuracy", "macro_f1", "loss"]
