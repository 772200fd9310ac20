"""Baselines (optional): the majority class, and TF-IDF with logistic regression, which fits in a second on a laptop."""

import logging
import warnings

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

logger = logging.getLogger(__name__)

MANY = 100_000  # texts, which take more than a few seconds
MAX_WEIGHTS = 20_000_000  # labels times words; lbfgs holds some 25 copies of them in float64, so 4 GB


def baseline_predictions(
    train_texts: list[str], train_labels: np.ndarray, texts: list[str], class_weight: str = "none"
) -> dict[str, np.ndarray]:
    """Fit the baselines to the texts and labels (ids, int [N]) of training, and label other texts.

    TF-IDF of words and logistic regression have scikit-learn's defaults, which are what people try first: lower-cased
    words of two or more letters, l2-normed rows, an l2 penalty of C = 1, lbfgs with up to 100 steps.

    Returns:
        Label ids, int64, of `majority` and `tfidf`; without `tfidf` where it cannot be fitted (see fit_linear).
    """
    predictions = {"majority": DummyClassifier(strategy="most_frequent").fit(train_labels, train_labels).predict(texts)}
    if len(train_texts) >= MANY:
        logger.info("TF-IDF baseline: fits to %d texts (--baselines false skips it)", len(train_texts))
    try:
        predictions["tfidf"] = fit_linear(TfidfVectorizer(), train_texts, train_labels, class_weight).predict(texts)
    except CannotFitError as reason:
        logger.warning("no TF-IDF baseline: %s", reason)
    return predictions


class CannotFitError(Exception):
    """A classifier that cannot be fitted here, to these texts; the message says why."""


def fit_linear(
    vectorizer: TfidfVectorizer | HashingVectorizer,
    texts: list[str],
    labels: np.ndarray,
    class_weight: str = "none",
) -> Pipeline:
    """Fit a vectorizer and logistic regression to texts and labels (ids, int [N]); `predict` of the result takes texts.

    Only `class_weight` (`none` or `balanced`) follows the run, so that both optimize the same thing.

    Raises:
        CannotFitError: the texts hold no word or one label, or the weights would not fit the memory.
    """
    if len(np.unique(labels)) == 1:
        raise CannotFitError("the training texts hold a single label")
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise CannotFitError("the training texts hold no word of two or more letters") from error
    count, columns = len(np.unique(labels)), features.shape[1]
    if count * columns > MAX_WEIGHTS:
        raise CannotFitError(f"{count} labels times {columns} columns are too many weights for it")
    model = LogisticRegression(class_weight=None if class_weight == "none" else class_weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last step's weights are as good a baseline
        model.fit(features, labels)
    return make_pipeline(vectorizer, model)
