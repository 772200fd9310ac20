"""Learning curve: accuracy and macro F1 by the number of training texts, of GPT-2 and of TF-IDF on the same subsets.

A power law is fitted to it: the error falls as e(n) = a n^-b + c with the number n of texts (Hestness et al., 2017).
"""

import contextlib
import itertools
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.optimize import OptimizeWarning, curve_fit
from tqdm.auto import tqdm

from recipe.evaluation.baselines import baseline_predictions
from recipe.evaluation.intervals import wilson_interval
from recipe.evaluation.metrics import label_metrics
from recipe.evaluation.plots import BLUE, GREY, new_figure, write_figure
from recipe.experiments.runs import Results, Runner

SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1"}
COLORS = {"gpt2": BLUE, "tfidf": GREY}
STARTS = list(itertools.product((0.2, 0.5, 1.0, 2.0), (0.0, 0.5)))  # of b, and of c as a share of the lowest error
MOST = (np.inf, 4, 1)  # of the parameters: b of real curves is under 1, and a steeper fall than this is a step
RESAMPLES = 200
MISFIT = 0.01  # of accuracy: a law that misses what was measured by more says little of what was not


def nested_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows in an order whose first n rows are a stratified sample, for every n: int [N].

    Row k of a label's m shuffled rows is sorted by (k + 1/2) / m. So of 4 rows of a and 2 of b the order is
    a (1/8), b (1/4), a (3/8), a (5/8), b (3/4), a (7/8).
    """
    rng, place = np.random.default_rng(seed), np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((rng.permutation(len(labels)), place))


def measure_curve(
    runner: Runner, splits: Mapping[str, Dataset], fractions: Sequence[float], seeds: Sequence[int], results: Results
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train on parts of `train`, nested and stratified, with several seeds, and measure on the same `test`.

    Each seed draws parts of its own, and is the training's.

    Returns:
        The points, with `texts`, `seed` and, of each classifier, `accuracy` and `macro_f1`; and the parts that were
        skipped, since they lack labels, with `lacks`.
    """
    labels, names = np.array(splits["train"]["label"]), runner.label_names
    sizes = sorted({max(round(fraction * len(labels)), 1) for fraction in fractions})
    measured, skipped = [], []
    disable = runner.arguments[2].disable_tqdm
    with tqdm(total=len(seeds) * sum(sizes), desc="Training", unit=" texts", disable=disable) as bar:
        for seed in seeds:
            order = nested_order(labels, seed)
            for size in sizes:
                rows, part = np.sort(order[:size]), {"texts": size, "seed": seed}
                if lacks := [names[label] for label in np.setdiff1d(labels, labels[rows])]:
                    skipped.append({**part, "lacks": lacks})
                else:
                    measured.append({**part, **results.of(part, partial(score_part, runner, splits, rows, seed))})
                bar.update(size)
    return measured, skipped


def score_part(runner: Runner, splits: Mapping[str, Dataset], rows: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the scores of GPT-2, and of TF-IDF where it can be fitted, trained on some rows of `train`."""
    train, test = splits["train"].select(rows), splits["test"]
    class_weight = runner.arguments[1].class_weight
    predictions = baseline_predictions(train["text"][:], train["label"][:], test["text"][:], class_weight)
    predictions["gpt2"] = runner.train_to_the_end(rows, ("test", None), seed).argmax(axis=-1)
    scores = {name: label_metrics(predictions[name], np.array(test["label"])) for name in COLORS if name in predictions}
    return {name: {score: figures[score] for score in SCORES} for name, figures in scores.items()}


def power_law(texts: np.ndarray | float, a: float, b: float, c: float) -> np.ndarray:
    """Return the error with a number of texts: `a` and `b` say how it falls, `c` is what no number of texts takes away."""
    return a * np.asarray(texts, dtype=np.float64) ** -b + c


def fit_power_law(texts: Sequence[int], errors: Sequence[float], test_texts: int) -> tuple[float, float, float] | None:
    """Fit the law by least squares, each error weighed by its binomial noise on the test texts.

    Returns:
        a, b and c, none below 0, the best of several starts; None with fewer than three sizes, which do not determine them.
    """
    texts, errors = np.asarray(texts, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if len(np.unique(texts)) < 3:
        return None
    shares = (errors * test_texts + 2) / (test_texts + 4)  # Agresti and Coull's: no error of 0 is without noise
    noise = np.sqrt(shares * (1 - shares) / test_texts)
    largest = texts.max()
    sizes = texts / largest  # so that the parameters are of a size too
    fits = []
    for slope, floor in STARTS:
        start = (max(errors.min(), 1e-6) * (1 - floor), slope, errors.min() * floor)
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError):  # a start that does not converge
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            (scale, b, c), _ = curve_fit(power_law, sizes, errors, start, noise, bounds=(0, MOST))
            misfit = (((power_law(sizes, scale, b, c) - errors) / noise) ** 2).sum()
            fits.append((misfit, scale * largest**b, b, c))
    return min(fits)[1:] if fits else None


def extrapolate(scores: pd.DataFrame, test_texts: int, seed: int = 0) -> dict[str, Any] | None:
    """Fit the law to the errors of a classifier, and guess its accuracy with twice the texts of the largest part.

    The interval is a bootstrap over seeds: whole curves are drawn again, since the subsets of one seed are nested. It knows
    nothing of the test texts' own noise.

    Returns:
        `a`, `b`, `c`, `texts`, `accuracy`, `misfit` (how far the law is off a measured mean, at most), and with several seeds
        `accuracy_low` and `accuracy_high` (95 %); None of fewer than three sizes, or where the law expects less of twice the
        texts than was measured.
    """
    law = fit_power_law(scores["texts"], 1 - scores["accuracy"], test_texts)
    means = scores.groupby("texts")["accuracy"].mean()
    twice = 2 * int(means.index.max())
    if law is None or 1 - power_law(twice, *law) < means.iloc[-1] - MISFIT:
        return None
    guess = {**dict(zip("abc", law, strict=True)), "texts": twice, "accuracy": float(1 - power_law(twice, *law))}
    guess["misfit"] = abs(1 - power_law(means.index, *law) - means).max()
    curves = dict(iter(scores.groupby("seed")))
    if len(curves) > 1:
        drawn = np.random.default_rng(seed).choice(sorted(curves), (RESAMPLES, len(curves)))
        samples, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)  # few differ
        accuracies: list[float] = []
        for sample, count in zip(samples, counts, strict=True):
            again = pd.concat([curves[number] for number in sample])
            if other := fit_power_law(again["texts"], 1 - again["accuracy"], test_texts):
                accuracies += [1 - power_law(twice, *other)] * count
        guess["accuracy_low"], guess["accuracy_high"] = np.quantile(accuracies, [0.025, 0.975])
    return guess


def describe_guess(title: str, guess: Mapping[str, Any], test_texts: int) -> str:
    """Return what a classifier's law expects of twice the texts, and how far to rely on it."""
    low, high = wilson_interval(round(test_texts * guess["accuracy"]), test_texts)
    interval = f"± {(high - low) / 2:.3f} by the test texts alone"
    if "accuracy_low" in guess:
        interval = f"{guess['accuracy_low']:.3f} - {guess['accuracy_high']:.3f}, 95 % by the seeds; {interval}"
    law = f"error = {guess['a']:.3g} n^-{guess['b']:.2f} + {guess['c']:.4f}"
    line = f"{title}: {law}; with {guess['texts']:,} texts, accuracy {guess['accuracy']:.3f} ({interval})"
    if guess["misfit"] > MISFIT:
        line += f"; rely on it less: the law is off by {guess['misfit']:.3f} at a measured size"
    return line


def scores_of(points: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a row a training of a classifier: `name`, `texts`, `seed` and its scores."""
    found = [(name, point) for name in COLORS for point in points if name in point]
    return pd.DataFrame([{"name": name, "texts": p["texts"], "seed": p["seed"], **p[name]} for name, p in found])


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row a classifier and size, by rising size: `name`, `texts`, `seeds`, and mean and sd of each score.

    The sd is over seeds (n - 1), and missing for one seed.
    """
    figures = {f"{score}_{name}": (score, how) for score in SCORES for name, how in (("mean", "mean"), ("sd", "std"))}
    return scores.groupby(["name", "texts"]).agg(seeds=("seed", "size"), **figures).reset_index()


def draw_curves(
    path: Path, scores: pd.DataFrame, guesses: Mapping[str, dict[str, Any]], titles: Mapping[str, str]
) -> None:
    """Draw both scores by the number of texts, a dot a seed and a line through the means; the law of the accuracy is dotted.

    The law is drawn where it was measured too, so that a bad fit shows.
    """
    figure = new_figure(10, 4)
    ticks = sorted({*scores["texts"], *(guess["texts"] for guess in guesses.values())})
    for axes, score in zip(figure.subplots(1, 2), SCORES, strict=True):
        for name, of_name in scores.groupby("name"):
            axes.plot(of_name.groupby("texts")[score].mean(), color=COLORS[name], label=titles[name])
            axes.plot(of_name["texts"], of_name[score], "o", color=COLORS[name], markersize=3)
        axes.set_xscale("log")
        axes.set_xticks(ticks, labels=[f"{texts:,}" for texts in ticks], rotation=30)
        axes.minorticks_off()
        axes.set(xlabel="training texts", title=f"{SCORES[score]} on test")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    of_accuracy = figure.axes[0]
    for name, guess in guesses.items():
        sizes = np.geomspace(ticks[0], guess["texts"])
        of_accuracy.plot(sizes, 1 - power_law(sizes, guess["a"], guess["b"], guess["c"]), ":", color=COLORS[name])
        if "accuracy_low" in guess:
            of_accuracy.vlines(guess["texts"], guess["accuracy_low"], guess["accuracy_high"], color=COLORS[name])
    of_accuracy.set_xlabel("training texts; dotted: the power law, to twice as many")
    write_figure(figure, path)
