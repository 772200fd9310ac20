"""Baselines (optional): the majority class, and TF-IDF with logistic regression, which fits in a second on a laptop."""

import logging
import warnings

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

logger = logging.getLogger(__name__)

MAX_WEIGHTS = 20_000_000  # labels times words; lbfgs holds some 25 copies of them in float64, so 4 GB


def baseline_predictions(
    train_texts: list[str], train_labels: np.ndarray, texts: list[str], class_weight: str = "none"
) -> dict[str, np.ndarray]:
    """Fit the baselines to the texts and labels (ids, int [N]) of training, and label other texts.

    TF-IDF of words and logistic regression have scikit-learn's defaults, which are what people try first: lower-cased
    words of two or more letters, l2-normed rows, an l2 penalty of C = 1, lbfgs with up to 100 steps. Only
    `class_weight` (`none` or `balanced`) follows the run, so that both optimize the same thing.

    Returns:
        Label ids, int64, of `majority` and `tfidf`; without `tfidf`, and with a warning, where it cannot be fitted.
    """
    predictions = {"majority": DummyClassifier(strategy="most_frequent").fit(train_labels, train_labels).predict(texts)}
    vectorizer = TfidfVectorizer()
    model = LogisticRegression(class_weight=None if class_weight == "none" else class_weight)
    try:
        features = vectorizer.fit_transform(train_texts)
        labels, words = len(np.unique(train_labels)), features.shape[1]
        if labels * words > MAX_WEIGHTS:
            raise ValueError(f"{labels} labels times {words} words are too many weights")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last step's weights are as good a baseline
            model.fit(features, train_labels)
    except ValueError as reason:  # no word in the texts, or one label
        logger.warning("no TF-IDF baseline: %s", reason)
        return predictions
    return predictions | {"tfidf": model.predict(vectorizer.transform(texts))}
