"""What a classifier costs nothing to beat, and what a laptop fits in a second: the measure of GPT-2's worth."""

import logging
import time
import warnings

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

logger = logging.getLogger(__name__)

TITLES = {"majority": "majority class", "tfidf": "TF-IDF + logistic regression"}  # by rising strength
SLOW = 10  # seconds


def baseline_predictions(train: pd.DataFrame, texts: list[str], class_weight: str = "none") -> dict[str, np.ndarray]:
    """Fits the baselines to the training texts and has them label others.

    Args:
        train: `text` and `label` (ids), the rows that the model was trained on.
        texts: what to label.
        class_weight: `none` or `balanced`, as the model's own loss was weighed.

    Returns:
        label ids, int64 [N], by the names in TITLES; without `tfidf` where the training texts hold no word or one label.
    """
    labels = train["label"].to_numpy()
    majority = DummyClassifier(strategy="most_frequent").fit(labels, labels)
    predictions = {"majority": majority.predict(texts)}
    tfidf = fit_tfidf(train["text"], labels, class_weight)
    if tfidf is not None:
        predictions["tfidf"] = tfidf.predict(texts)
    return predictions


def fit_tfidf(texts: pd.Series, labels: np.ndarray, class_weight: str) -> Pipeline | None:
    """TF-IDF of words and logistic regression, both with scikit-learn's defaults, which are what people try first.

    So: lower-cased words of two or more letters, l2-normed rows, an l2 penalty of C = 1, lbfgs with up to 100 steps.
    Only `class_weight` follows the run, so that both optimize the same thing.
    """
    if len(np.unique(labels)) == 1:
        logger.warning("no TF-IDF baseline: the training texts hold a single label")
        return None
    start = time.perf_counter()
    weights = "balanced" if class_weight == "balanced" else None
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(class_weight=weights))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what its last step gives is as good a baseline
            model.fit(texts, labels)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        logger.warning("no TF-IDF baseline: the training texts hold no word of two or more letters")
        return None
    seconds = time.perf_counter() - start
    if seconds > SLOW:
        logger.info("TF-IDF baseline: %.0f s for %d texts (--baselines false spares them)", seconds, len(texts))
    return model
