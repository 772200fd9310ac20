"""Compare a finished run with what one would take instead of GPT-2: accuracy, time and size on the same splits.

python scripts/examples/peers.py --model_dir runs/quickstart --output_file peers.json

TF-IDF of words, and hashed character n-grams, each with logistic regression; MiniLM sentence embeddings with a linear head;
SetFit on 16 texts a label. The last two need `pip install 'gpt2-classifier-recipe[peers]'`, and the Hub or a folder as
--sentence_model; without, they are skipped. Another peer is another function.
"""

import json
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recipe import TextClassifier
from recipe.atomic import write_json
from recipe.data.dataset import load_saved_splits
from recipe.data.run_config import base_model_name, read_run_config
from recipe.errors import OneLineParser, RecipeError, as_recipe_error, first_line, run_script
from recipe.evaluation.intervals import compare_paired, format_p
from recipe.evaluation.metrics import label_metrics

Predict = Callable[[list[str]], np.ndarray]  # texts -> label ids, int [N]
SHOTS, PAIRS = 16, 20  # texts a label, and pairs of each kind a text: as in SetFit's paper (Tunstall et al., 2022)


def fit_vectors(vectorizer: Any, texts: list[str], labels: np.ndarray, class_weight: str) -> tuple[Predict, int]:
    """Fit logistic regression to the vectorizer's columns; return how to predict, and the bytes that one has to keep."""
    weight = None if class_weight == "none" else class_weight
    model = make_pipeline(vectorizer, LogisticRegression(class_weight=weight)).fit(texts, labels)
    return model.predict, len(pickle.dumps(model))


def fit_minilm(name: str, texts: list[str], labels: np.ndarray) -> tuple[Predict, int]:
    """Fit a linear head to the sentence embeddings of the training texts; MiniLM itself stays as it is."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name, model_kwargs={"use_safetensors": True})
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(model.encode(texts), labels)
    return lambda new: head.predict(model.encode(new)), size_of(model)


def fit_setfit(name: str, texts: list[str], labels: np.ndarray, seed: int = 42) -> tuple[Predict, int]:
    """Fine-tune MiniLM by SetFit on SHOTS texts of each label, or on all where a label has fewer."""
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    rng = np.random.default_rng(seed)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:SHOTS] for label in np.unique(labels)])
    body = SentenceTransformer(name, model_kwargs={"use_safetensors": True})
    model = SetFitModel(model_body=body, model_head=LogisticRegression())
    few = Dataset.from_dict({"text": [texts[i] for i in chosen], "label": labels[chosen].tolist()})
    with TemporaryDirectory() as folder:
        args = TrainingArguments(folder, num_iterations=PAIRS, seed=seed, report_to="none", save_strategy="no")
        Trainer(model=model, args=args, train_dataset=few).train()
    return lambda new: np.asarray(model.predict(new)), size_of(body)


def size_of(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def load_run(folder: Path) -> tuple[Predict, int, float]:
    """Return how a finished run predicts, the size of its weights, and the seconds of its training, if it noted all."""
    classifier = TextClassifier.from_pretrained(folder)
    ids = {name: i for i, name in enumerate(classifier.label_names)}
    with as_recipe_error((OSError, ValueError), f"{folder}/train_results.json", "give the folder of a finished run"):
        noted = json.loads((folder / "train_results.json").read_text(encoding="utf-8"))
    seconds = math.nan if noted.get("train_resumed") else noted["train_runtime"]
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return lambda new: np.array([ids[label] for label in classifier.predict(new)[0]]), size, seconds


def measure(predict: Predict, texts: list[str], labels: np.ndarray, seconds: float, size: int) -> dict[str, float]:
    """Return the figures of a classifier that took so many seconds to train, and is so many bytes."""
    start = perf_counter()
    figures = label_metrics(predict(texts), labels)
    return figures | {"train_seconds": seconds, "test_seconds": perf_counter() - start, "megabytes": size / 1e6}


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--model_dir", type=Path, required=True, help="A finished run.")
    parser.add_argument("--sentence_model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--output_file", type=Path, help="A .json file for the figures.")
    args = parser.parse_args()
    if args.output_file and args.output_file.exists():
        raise RecipeError(f"output_file {args.output_file} exists: give another one")
    splits = load_saved_splits(args.model_dir)
    texts, labels = splits["train"]["text"][:], np.array(splits["train"]["label"])
    new, true = splits["test"]["text"][:], np.array(splits["test"]["label"])
    run = base_model_name(args.model_dir)
    weight = read_run_config(args.model_dir).get("class_weight", "none")
    ngrams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 6), n_features=2**18)  # after fastText's subwords
    peers = {
        "TF-IDF + logistic regression": lambda: fit_vectors(TfidfVectorizer(), texts, labels, weight),
        "character n-grams + logistic regression": lambda: fit_vectors(ngrams, texts, labels, weight),
        "MiniLM embeddings + linear head": lambda: fit_minilm(args.sentence_model, texts, labels),
        f"SetFit of MiniLM, {SHOTS} texts a label": lambda: fit_setfit(args.sentence_model, texts, labels),
    }
    predict, size, seconds = load_run(args.model_dir)
    rows, right = {run: measure(predict, new, true, seconds, size)}, predict(new) == true
    for name, fit in peers.items():
        print(f"{name} ...", flush=True)
        start = perf_counter()
        try:
            with warnings.catch_warnings(action="ignore"):
                predict, size = fit()
                seconds = perf_counter() - start
                rows[name] = measure(predict, new, true, seconds, size)
        except Exception as error:  # a package that is not installed, a model that is not there, texts without words
            extra = ": pip install 'gpt2-classifier-recipe[peers]'" if isinstance(error, ImportError) else ""
            print(f"skipped: {first_line(error)}{extra}")
            continue
        rows[name]["mcnemar_p"] = compare_paired(right, predict(new) == true).p_value
    table = pd.DataFrame(rows).T
    print(f"\n{len(texts):,} training texts, {len(new):,} test texts; McNemar's test against {run}\n")
    print(table.to_string(float_format="{:.3g}".format, formatters={"mcnemar_p": format_p}, na_rep=""))
    if args.output_file:
        write_json(args.output_file, {"model": run, "peers": rows})
        print(f"\nSaved to {args.output_file}")


if __name__ == "__main__":
    run_script(main)
