import time

import numpy as np
from conftest import make_texts
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from recipe.evaluation.baselines import baseline_predictions


def test_they_are_scikit_learns_with_its_defaults():
    data = make_texts(300, ["sport", "medicine", "technology"])
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(300) < 0.3, rng.integers(0, 3, 300), data["label"].astype("category").cat.codes)
    train, labels, test = data["text"][:200].tolist(), noisy[:200], data["text"][200:].tolist()
    predictions = baseline_predictions(train, labels, test)
    vectors = TfidfVectorizer().fit(train)
    model = LogisticRegression().fit(vectors.transform(train), labels)
    assert predictions["tfidf"].tolist() == model.predict(vectors.transform(test)).tolist()
    assert predictions["majority"].tolist() == [np.bincount(labels).argmax()] * 100
    assert len(set(predictions["tfidf"])) == 3


def test_they_follow_the_runs_class_weight():
    texts = ["good day"] * 6 + ["bad day"] * 3
    labels = np.array([0] * 5 + [1] + [0, 0, 1])
    plain, balanced = (baseline_predictions(texts, labels, ["bad day"], w)["tfidf"] for w in ("none", "balanced"))
    assert (plain.tolist(), balanced.tolist()) == ([0], [1])


def test_a_rare_label_and_empty_texts():
    texts, labels = ["win cash now", *["see you later"] * 98, ""], np.array([2, *[0] * 99])
    predictions = baseline_predictions(texts, labels, ["", "win cash now", "unseen words"])
    assert predictions["majority"].tolist() == [0, 0, 0]
    assert predictions["tfidf"].tolist() == [0, 0, 0]  # one text among a hundred does not count


def test_no_words_or_one_label_leave_the_majority_alone(caplog):
    assert list(baseline_predictions(["", "a", "?"], np.array([0, 1, 1]), ["x"])) == ["majority"]
    assert "no TF-IDF baseline: empty vocabulary" in caplog.text
    assert list(baseline_predictions(["some words", "more words"], np.array([1, 1]), ["x"])) == ["majority"]
    assert "the data contains only one class" in caplog.text


def test_five_thousand_texts_take_seconds():
    data = make_texts(5000, ["sport", "medicine", "technology"])
    start = time.perf_counter()
    texts, labels = data["text"].tolist(), data["label"].astype("category").cat.codes.to_numpy()
    baseline_predictions(texts, labels, texts)
    assert time.perf_counter() - start < 10


def test_weights_that_would_not_fit_are_not_tried(monkeypatch, caplog):
    monkeypatch.setattr("recipe.evaluation.baselines.MAX_WEIGHTS", 5)
    texts = ["good day", "bad day", "odd night"]
    assert list(baseline_predictions(texts, np.array([0, 1, 2]), ["x"])) == ["majority"]
    assert "3 labels times 5 words are too many weights" in caplog.text
