"""Cross-validation: folds of all training rows, each classified by a model that was trained on the other folds."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from scipy.stats import t as student
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from tqdm.auto import tqdm
from transformers import EvalPrediction

from recipe.config import Arguments
from recipe.data.dataset import load_rows
from recipe.data.group_and_time_splits import join_groups
from recipe.data.rows import check_label_coverage, source_of
from recipe.data.splits import draw
from recipe.data.trained_on import count_trained_on
from recipe.errors import RecipeError, as_recipe_error
from recipe.evaluation.baselines import baseline_predictions
from recipe.evaluation.metrics import compute_metrics, label_metrics
from recipe.evaluation.plots import BLUE, GREY, IN_POINTS, new_figure, write_figure
from recipe.experiments.runs import Results, Runner, settings_of
from recipe.model.loading import head_labels, load_config

logger = logging.getLogger(__name__)

SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "loss": "loss"}


def load_training_rows(arguments: Arguments) -> tuple[pd.DataFrame, list[str]]:
    """Return all rows of the training files, in their order, with the labels by id: what load_splits would split.

    With `max_train_samples`, so many of them. Rows of a validation or test file that is given stay out, and so do training
    rows whose text or group these hold.

    Raises:
        RecipeError: whatever is wrong with the data, or texts that the model was trained on before.
    """
    model_args, data_args, _ = arguments
    if data_args.undersample == "train":
        raise RecipeError("undersample is train: each text is trained on and classified here, so take all, or none")
    if data_args.split_method == "time":
        logger.warning("split_method time: folds are drawn at random, so a fold is not later than what it is judged by")
    name = model_args.model_name_or_path
    labels = head_labels(load_config(name, model_args.model_revision))
    rows, names, _, store = load_rows(data_args, labels, make_splits=False)
    rows = draw(rows[rows["split"] == "train"], data_args.max_train_samples, data_args.split_seed).sort_index()
    rows = rows.assign(text=pd.Series(store.take(rows.index), rows.index, dtype=object))
    check_label_coverage(rows.value_counts(["split", "label"]).unstack().reindex(columns=names).fillna(0).astype(int))
    if count := count_trained_on(rows["text"], name):
        known = f"{name} was trained on {count} of the {len(rows)} texts"
        raise RecipeError(f"{known}, so no fold would be new to it: give the model that its training began with")
    return rows, names


def make_folds(rows: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row, int [N] from 0, with the label shares kept; copies and groups stand in one fold.

    Raises:
        RecipeError: a label with fewer rows than folds, or groups that leave a fold empty or its training without a label.
    """
    counts = rows["label"].value_counts()
    if counts.min() < folds:
        few = f"label {counts.idxmin()!r} has {counts.min()} rows, too few for {folds} folds"
        raise RecipeError(f"{source_of(rows)}: {few}: add rows, drop the label, or lower --folds")
    groups = join_groups(rows).factorize()[0]
    grouped = len(np.unique(groups)) < len(rows)
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(rows), dtype=int)
    fix = "give rows of more groups, or lower --folds"
    with as_recipe_error(ValueError, f"{source_of(rows)}: {folds} folds cannot be made", fix):
        for fold, (_, test) in enumerate(splitter.split(rows, rows["label"], groups if grouped else None)):
            fold_of[test] = fold
        for fold in range(folds):
            if rows["label"][fold_of != fold].nunique() < len(counts) or not (fold_of == fold).any():
                raise ValueError("of these groups one fold would be empty, or hold all rows of a label")
    return fold_of


def out_of_fold_logits(
    arguments: Arguments, rows: pd.DataFrame, names: list[str], fold_of: np.ndarray, path: Path
) -> np.ndarray:
    """Train once for each fold, on all others, and return the logits of every row: float32 [N, num_labels].

    Args:
        path: of the file that keeps the logits of each finished fold until all are.
    """
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    columns = {"text": rows["text"].tolist(), "label": rows["label"].map(names.index).tolist()}
    runner = Runner(arguments, {"train": datasets.Dataset.from_dict(columns, features=features)})
    results = Results(path, settings_of(arguments), names, columns, fold_of.tolist())
    logits = np.empty((len(rows), len(names)), dtype=np.float32)

    def train(fold: int) -> dict[str, Any]:
        others, its = (np.flatnonzero(chosen) for chosen in (fold_of != fold, fold_of == fold))
        return {"logits": runner.train_to_the_end(others, ("train", its)).tolist()}

    for fold in tqdm(range(fold_of.max() + 1), desc="Training", unit=" folds", disable=arguments[2].disable_tqdm):
        logits[fold_of == fold] = results.of({"fold": fold}, partial(train, fold))["logits"]
    return logits


def out_of_fold_baselines(
    rows: pd.DataFrame, labels: np.ndarray, fold_of: np.ndarray, class_weight: str
) -> dict[str, np.ndarray]:
    """Return the label ids that each baseline gives each row, int [N], fitted to the other folds; those that fit to all."""
    texts, predicted = rows["text"].to_numpy(), {}
    for fold in range(fold_of.max() + 1):
        train, test = fold_of != fold, fold_of == fold
        found = baseline_predictions(texts[train].tolist(), labels[train], texts[test].tolist(), class_weight)
        for name, predictions in found.items():
            predicted.setdefault(name, np.full_like(labels, -1))[test] = predictions
    return {name: predictions for name, predictions in predicted.items() if (predictions >= 0).all()}


def fold_figures(
    predictions: np.ndarray, labels: np.ndarray, fold_of: np.ndarray, logits: np.ndarray | None = None
) -> dict[str, Any]:
    """Return accuracy, macro_f1 and, given logits, loss: of all rows and of each fold.

    Returns:
        pooled: of all rows together.
        mean, sd, low, high: over folds, with the interval of corrected_interval.
        folds: of each, with its number of `texts`; macro_f1 is over the labels that occur in it.
    """

    def figures(chosen: np.ndarray) -> dict[str, float]:
        if logits is not None:
            return compute_metrics(EvalPrediction(logits[chosen], labels[chosen]))
        scores = label_metrics(predictions[chosen], labels[chosen])
        return {name: scores[name] for name in ("accuracy", "macro_f1")}

    by_fold = [figures(fold_of == fold) for fold in range(fold_of.max() + 1)]
    table = pd.DataFrame(by_fold)
    low, high = corrected_interval(table)
    most = pd.Series({"accuracy": 1.0, "macro_f1": 1.0, "loss": np.inf}).reindex(high.index)
    texts = np.bincount(fold_of).tolist()
    return {
        "pooled": figures(np.full(len(labels), True)),
        "mean": table.mean().to_dict(),
        "sd": table.std().to_dict(),
        "low": low.clip(lower=0.0).to_dict(),
        "high": high.clip(upper=most).to_dict(),
        "folds": [{"texts": count, **one} for count, one in zip(texts, by_fold, strict=True)],
    }


def corrected_interval(by_fold: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the 95 % interval (low, high) of the mean of each column over K folds, the rows.

    Student's t with K - 1 degrees of freedom and the variance (1/K + n_test/n_train) sd^2 of Nadeau & Bengio (2003),
    where n_test/n_train = 1 / (K - 1): the training texts of folds overlap, so sd^2 / K alone is too small. No unbiased
    estimate exists (Bengio & Grandvalet 2004), and theirs was made for random splits: the interval is approximate.
    """
    folds = len(by_fold)
    half = student.ppf(0.975, folds - 1) * np.sqrt(1 / folds + 1 / (folds - 1)) * by_fold.std()
    return by_fold.mean() - half, by_fold.mean() + half


def draw_folds(path: Path, figures: Mapping[str, dict[str, Any]], titles: Mapping[str, str]) -> None:
    """Draw accuracy and macro F1 of each fold as a ring, and their mean with its interval; GPT-2 on top.

    Args:
        figures: of each classifier, what fold_figures returns.
        titles: of each classifier.
    """
    names = [name for name in figures if name != "majority"][::-1]  # which is far off, and would squeeze the others
    figure = new_figure(10, 1.4 + 0.6 * len(names))
    for axes, score in zip(figure.subplots(1, 2, sharey=True), ("accuracy", "macro_f1"), strict=True):
        for height, name in enumerate(names):
            color, found = BLUE if name == "gpt2" else GREY, figures[name]
            folds = [fold[score] for fold in found["folds"]]
            axes.plot(folds, [height - 0.2] * len(folds), "o", color=color, markersize=4, fillstyle="none")
            mean, low, high = (found[what][score] for what in ("mean", "low", "high"))
            axes.errorbar(mean, height, xerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=3)
            axes.annotate(f"{mean:.3f}", (mean, height), (0, 5), fontsize=8, **IN_POINTS)
        axes.set_yticks(range(len(names)), labels=[titles[name] for name in names])
        axes.set(xlabel=f"{SCORES[score]}: mean of folds, 95 % interval; a ring a fold", ylim=(-0.6, len(names) - 0.3))
        axes.grid(axis="x", alpha=0.3)
    write_figure(figure, path)
