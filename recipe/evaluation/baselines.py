"""Baselines (optional): the majority class, and TF-IDF with logistic regression, which fits in a second on a laptop."""

import logging
import time
import warnings

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

logger = logging.getLogger(__name__)

SLOW = 10  # seconds


def baseline_predictions(
    train_texts: list[str], train_labels: np.ndarray, texts: list[str], class_weight: str = "none"
) -> dict[str, np.ndarray]:
    """Fit the baselines to the texts and labels (ids, int [N]) of training, and label other texts.

    TF-IDF of words and logistic regression have scikit-learn's defaults, which are what people try first: lower-cased
    words of two or more letters, l2-normed rows, an l2 penalty of C = 1, lbfgs with up to 100 steps. Only `class_weight`
    (`none` or `balanced`) follows the run, so that both optimize the same thing.

    Returns:
        Label ids, int64, of `majority` and `tfidf`; without `tfidf` where the training texts hold no word or one label.
    """
    predictions = {"majority": DummyClassifier(strategy="most_frequent").fit(train_labels, train_labels).predict(texts)}
    if len(np.unique(train_labels)) == 1:
        logger.warning("no TF-IDF baseline: the training texts hold a single label")
        return predictions
    start, weights = time.perf_counter(), None if class_weight == "none" else class_weight
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(class_weight=weights))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last step's weights are as good a baseline
            predictions["tfidf"] = model.fit(train_texts, train_labels).predict(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        logger.warning("no TF-IDF baseline: the training texts hold no word of two or more letters")
    if (seconds := time.perf_counter() - start) > SLOW:
        logger.info("TF-IDF baseline: %.0f s for %d texts (--baselines false skips it)", seconds, len(train_texts))
    return predictions
