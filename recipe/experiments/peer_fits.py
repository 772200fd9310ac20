"""How GPT-2 and the linear models among its peers are fitted; sentence_models.py has the others."""

import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from datasets import Dataset
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from recipe.config import Arguments
from recipe.errors import RecipeError, as_recipe_error
from recipe.evaluation.baselines import fit_linear
from recipe.experiments.fitting import make_trainer
from recipe.experiments.peers import Fits, Fitted, Task
from recipe.experiments.sentence_models import fit_minilm, fit_setfit
from recipe.inference.text_classifier import TextClassifier, decide

# After the subwords of fastText (Bojanowski et al., 2017: 3 to 6 characters, hashed), whose learnt vectors this lacks.
NGRAMS = {"analyzer": "char_wb", "ngram_range": (3, 6), "n_features": 2**18}


def fits_of(fit_gpt2: Callable[[Task], Fitted]) -> Fits:
    """Return how each peer is fitted, GPT-2 as given."""
    return {
        "gpt2": fit_gpt2,
        "tfidf": lambda task: fit_vectors(TfidfVectorizer(), task),
        "ngrams": lambda task: fit_vectors(HashingVectorizer(**NGRAMS), task),
        "minilm": fit_minilm,
        "setfit": fit_setfit,
    }


def fit_vectors(vectorizer: TfidfVectorizer | HashingVectorizer, task: Task) -> Fitted:
    """Fit logistic regression to the vectorizer's columns."""
    model = fit_linear(vectorizer, task.texts, task.labels, task.class_weight)
    return Fitted(model.predict, len(pickle.dumps(model)))


def train_gpt2(arguments: Arguments, train: Dataset, task: Task) -> Fitted:
    """Train GPT-2 by the recipe, from a feature cache that is empty, and load what it saves as a user does.

    `seconds_with_cached_features` are those of another training on the same texts, which finds the features cached.
    """
    start = perf_counter()
    with TemporaryDirectory(prefix="recipe-features-") as cache, TemporaryDirectory(prefix="recipe-peer-") as folder:
        model_args = dataclasses.replace(arguments[0], feature_cache_dir=cache)
        with make_trainer(model_args, *arguments[1:], {"train": train}, progress=task.progress) as trainer:
            trainer.train()
            trainer.save_model(folder)
            cached, filling = "trunk_output" in trainer.train_dataset.column_names, trainer.seconds_of_caching
        fitted = load_gpt2(Path(folder), task)
    seconds = perf_counter() - start
    return fitted._replace(timings={"seconds_with_cached_features": seconds - filling} if cached else {})


def load_run(folder: Path, task: Task) -> Fitted:
    """Load a finished run with the seconds that it noted, or NaN where it was resumed and noted its last part alone."""
    path = folder / "train_results.json"
    with as_recipe_error(
        (OSError, ValueError, KeyError), f"{path}: cannot be read", "give the folder of a finished run"
    ):
        noted = json.loads(path.read_text(encoding="utf-8"))
        seconds = math.nan if noted.get("train_resumed") else float(noted["train_runtime"])
    return load_gpt2(folder, task)._replace(timings={"seconds_to_train": seconds})


def load_gpt2(folder: Path, task: Task) -> Fitted:
    """Load a saved model; its size is that of its weights, config and tokenizer."""
    classifier = TextClassifier.from_pretrained(folder, task.device)

    def predict(texts: list[str]) -> np.ndarray:
        return decide(classifier.predict(texts, task.progress)[1], classifier.decision_threshold)

    names = ("model*.safetensors*", "config.json", "tokenizer.json", "tokenizer_config.json")
    size = sum(path.stat().st_size for name in names for path in folder.glob(name))
    if not size:
        raise RecipeError(f"{folder}: no folder with weights: give the folder of a finished run")
    return Fitted(predict, size)
