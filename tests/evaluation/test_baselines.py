import time

import numpy as np
import pandas as pd
from conftest import make_texts
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from recipe.evaluation.baselines import baseline_predictions


def frame(texts, labels):
    return pd.DataFrame({"text": texts, "label": labels})


def test_they_are_scikit_learns_with_its_defaults():
    data = make_texts(300, ["sport", "medicine", "technology"])
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(300) < 0.3, rng.integers(0, 3, 300), data["label"].astype("category").cat.codes)
    train, test = frame(data["text"][:200], noisy[:200]), data["text"][200:].tolist()
    predictions = baseline_predictions(train, test)
    vectors = TfidfVectorizer().fit(train["text"])
    model = LogisticRegression().fit(vectors.transform(train["text"]), train["label"])
    assert predictions["tfidf"].tolist() == model.predict(vectors.transform(test)).tolist()
    assert predictions["majority"].tolist() == [train["label"].mode()[0]] * 100
    assert len(set(predictions["tfidf"])) == 3


def test_they_follow_the_runs_class_weight():
    texts = ["good day"] * 6 + ["bad day"] * 3
    train = frame(texts, [0] * 5 + [1] + [0, 0, 1])
    plain, balanced = (baseline_predictions(train, ["bad day"], weight)["tfidf"] for weight in ("none", "balanced"))
    assert (plain.tolist(), balanced.tolist()) == ([0], [1])


def test_a_rare_label_and_empty_texts():
    train = frame(["win cash now", *["see you later"] * 98, ""], [2, *[0] * 99])
    predictions = baseline_predictions(train, ["", "win cash now", "unseen words"])
    assert predictions["majority"].tolist() == [0, 0, 0]
    assert predictions["tfidf"].tolist() == [0, 0, 0]  # what one text among a hundred says is not believed


def test_no_words_or_one_label_leave_the_majority_alone(caplog):
    assert list(baseline_predictions(frame(["", "a", "?"], [0, 1, 1]), ["x"])) == ["majority"]
    assert "no TF-IDF baseline: the training texts hold no word of two or more letters" in caplog.text
    assert list(baseline_predictions(frame(["some words", "more words"], [1, 1]), ["x"])) == ["majority"]
    assert "no TF-IDF baseline: the training texts hold a single label" in caplog.text


def test_five_thousand_texts_are_a_matter_of_seconds():
    data = make_texts(5000, ["sport", "medicine", "technology"])
    start = time.perf_counter()
    baseline_predictions(frame(data["text"], data["label"].astype("category").cat.codes), data["text"].tolist())
    assert time.perf_counter() - start < 10
