"""Compare a finished run with what one would take instead of GPT-2: accuracy, time and size on the same splits.

python scripts/examples/peers.py --model_dir runs/quickstart --output_file peers.json

TF-IDF of words, and hashed character n-grams, each with logistic regression; and, where `pip install setfit` is done, MiniLM
sentence embeddings with a linear head, and SetFit on 16 texts a label (give a folder as --sentence_model where there is no
Hub). Another peer is another function.
"""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
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
from recipe.data.texts import base_model_name
from recipe.errors import OneLineParser, RecipeError, run_script
from recipe.evaluation.intervals import compare_paired, format_p
from recipe.evaluation.metrics import label_metrics

Predict = Callable[[list[str]], np.ndarray]  # texts -> label ids, int [N]
SHOTS, PAIRS = 16, 20  # texts a label, and pairs of each kind a text: as in SetFit's paper (Tunstall et al., 2022)


def fit_vectors(vectorizer: TfidfVectorizer | HashingVectorizer, texts: list[str], labels: np.ndarray) -> tuple:
    """Fit logistic regression to the vectorizer's columns; return how to predict, and the bytes that one has to keep."""
    model = make_pipeline(vectorizer, LogisticRegression(max_iter=1000)).fit(texts, labels)
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
    args = TrainingArguments("runs/setfit", num_iterations=PAIRS, seed=seed, report_to="none", save_strategy="no")
    few = Dataset.from_dict({"text": [texts[i] for i in chosen], "label": labels[chosen].tolist()})
    Trainer(model=model, args=args, train_dataset=few).train()
    return lambda new: np.asarray(model.predict(new)), size_of(body)


def size_of(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def load_run(folder: Path) -> tuple[Predict, int, float]:
    """Return how a finished run predicts, the size of its weights, and the seconds of its training."""
    classifier = TextClassifier.from_pretrained(folder)
    ids = {name: i for i, name in enumerate(classifier.label_names)}
    seconds = json.loads((folder / "train_results.json").read_text())["train_runtime"]
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return lambda new: np.array([ids[label] for label in classifier.predict(new)[0]]), size, seconds


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
    ngrams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 6), n_features=2**18)  # after fastText's subwords
    peers = {
        run: lambda: load_run(args.model_dir),
        "TF-IDF + logistic regression": lambda: fit_vectors(TfidfVectorizer(), texts, labels),
        "character n-grams + logistic regression": lambda: fit_vectors(ngrams, texts, labels),
        "MiniLM embeddings + linear head": lambda: fit_minilm(args.sentence_model, texts, labels),
        f"SetFit of MiniLM, {SHOTS} texts a label": lambda: fit_setfit(args.sentence_model, texts, labels),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, fit in peers.items():
        print(f"{name} ...", flush=True)
        start = perf_counter()
        try:
            with warnings.catch_warnings(action="ignore"):
                predict, size, *noted = fit()
        except (ImportError, OSError) as error:  # a package that is not installed, a model that is not there
            print(f"skipped: {str(error).splitlines()[0]}")
            continue
        trained = perf_counter()
        predicted = predict(new)
        seconds = {"train_seconds": noted[0] if noted else trained - start, "test_seconds": perf_counter() - trained}
        rows[name] = label_metrics(predicted, true) | seconds | {"megabytes": size / 1e6}
        right = predicted == true
        if name == run:
            of_run = right
        else:
            rows[name]["mcnemar_p"] = compare_paired(of_run, right).p_value
    table = pd.DataFrame(rows).T
    print(f"\n{len(texts):,} training texts, {len(new):,} test texts; McNemar's test against {run}\n")
    print(table.to_string(float_format="{:.3g}".format, formatters={"mcnemar_p": format_p}, na_rep=""))
    if args.output_file:
        write_json(args.output_file, {"model": run, "peers": rows})
        print(f"\nSaved to {args.output_file}")


if __name__ == "__main__":
    run_script(main)
