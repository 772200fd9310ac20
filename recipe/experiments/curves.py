"""Learning curve: accuracy and macro F1 by the number of training texts, of GPT-2 and of TF-IDF on the same subsets.

A power law is fitted to it: the error falls as e(n) = a n^-b + c with the number n of texts (Hestness et al., 2017).
"""

import contextlib
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.optimize import OptimizeWarning, curve_fit
from tqdm.auto import tqdm

from recipe.errors import shorten
from recipe.evaluation.baselines import baseline_predictions
from recipe.evaluation.metrics import label_metrics
from recipe.evaluation.plots import BLUE, GREY
from recipe.experiments.runs import Results, Runner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STARTS = list(itertools.product((0.2, 0.5, 1.0, 2.0), (0.0, 0.5)))  # of b, and of c as a share of the lowest error
MOST = (np.inf, 4, 1)  # of the parameters: b of real curves is under 1, and a steeper fall than this is a step
RESAMPLES = 200


@dataclass(frozen=True)
class PowerLaw:
    """`a` and `b` say how the error falls, `c` is what no number of texts takes away; none is below 0."""

    a: float
    b: float
    c: float

    def __call__(self, texts: np.ndarray | float) -> np.ndarray:
        return self.a * np.asarray(texts, dtype=np.float64) ** -self.b + self.c

    def __str__(self) -> str:
        return f"error = {self.a:.3g} n^-{self.b:.2f} + {self.c:.4f}"


def fit_power_law(texts: Sequence[int], errors: Sequence[float], test_texts: int) -> PowerLaw | None:
    """Fit the law by least squares (scipy's curve_fit), each error weighed by its binomial noise on the test texts.

    Args:
        texts, errors: of each point.

    Returns:
        The best of several starts; None with fewer than three sizes, which do not determine three parameters.
    """
    texts, errors = np.asarray(texts, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if len(np.unique(texts)) < 3:
        return None
    shares = (errors * test_texts + 2) / (test_texts + 4)  # Agresti and Coull's: no error of 0 is without noise
    noise = np.sqrt(shares * (1 - shares) / test_texts)
    largest = texts.max()  # sizes relative to it, so that the parameters are of a size too
    fits = []
    for slope, floor in STARTS:
        start = (max(errors.min(), 1e-6) * (1 - floor), slope, errors.min() * floor)
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError):  # a start that does not converge
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            (scale, b, c), _ = curve_fit(relative_law, texts / largest, errors, start, noise, bounds=(0, MOST))
            misfit = (((relative_law(texts / largest, scale, b, c) - errors) / noise) ** 2).sum()
            fits.append((misfit, PowerLaw(float(scale * largest**b), float(b), float(c))))
    return min(fits, key=lambda fit: fit[0])[1] if fits else None


def relative_law(size: np.ndarray, scale: float, b: float, c: float) -> np.ndarray:
    return scale * size**-b + c


def extrapolate(points: Sequence[dict[str, Any]], test_texts: int, seed: int = 0) -> dict[str, Any] | None:
    """Fit the law to all points, and guess the accuracy with twice the texts of the largest one.

    The interval is a bootstrap over seeds: whole curves are drawn again, since the subsets of one seed are nested. It knows
    nothing of the test texts' own noise.

    Args:
        points: dicts with `texts`, `seed` and `error`.

    Returns:
        `a`, `b`, `c`, `texts`, `accuracy`, `measured` (the mean accuracy of the largest part, half as many texts), `misfit` (how
        far the law is off a measured mean, at most), and with several seeds `accuracy_low` and `accuracy_high` (95 %); None
        where nothing can be fitted.
    """

    def fit(chosen: Sequence[dict[str, Any]]) -> PowerLaw | None:
        return fit_power_law([point["texts"] for point in chosen], [point["error"] for point in chosen], test_texts)

    law = fit(points)
    if law is None:
        return None
    means = pd.DataFrame(points).groupby("texts")["error"].mean()
    twice = 2 * int(means.index.max())
    guess = {**asdict(law), "texts": twice, "accuracy": 1 - float(law(twice))}
    guess["measured"] = float(1 - means.iloc[-1])
    guess["misfit"] = float(abs(law(means.index) - means).max())
    curves = {number: [point for point in points if point["seed"] == number] for number in {p["seed"] for p in points}}
    if len(curves) > 1:
        drawn = np.random.default_rng(seed).choice(sorted(curves), (RESAMPLES, len(curves)))
        samples, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)  # few differ
        laws = [fit([point for number in sample for point in curves[number]]) for sample in samples]
        accuracies = [np.repeat(1 - law(twice), count) for law, count in zip(laws, counts, strict=True) if law]
        low, high = np.quantile(np.concatenate(accuracies), [0.025, 0.975])
        guess |= {"accuracy_low": float(low), "accuracy_high": float(high)}
    return guess


COLORS = {"gpt2": BLUE, "tfidf": GREY}
MISFIT = 0.01  # of accuracy: a law that misses what was measured by more says little of what was not
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1"}


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
    runner: Runner,
    splits: Mapping[str, Dataset],
    fractions: Sequence[float],
    seeds: Sequence[int],
    results: Results,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train on parts of `train`, nested and stratified, with several seeds, and measure on the same `test`.

    Args:
        runner: of the splits, which have `text` and `label` (ClassLabel).
        fractions: of the training texts, rising.
        seeds: each draws parts of its own, and is the training's.

    Returns:
        The points, with `texts`, `fraction`, `seed` and, of each classifier, `accuracy` and `macro_f1`; and the parts that were
        skipped, since they lack labels, with `lacks`.
    """
    labels, names = np.array(splits["train"]["label"]), runner.label_names
    sizes = {max(round(fraction * len(labels)), 1): fraction for fraction in fractions}
    measured, skipped = [], []
    with tqdm(total=len(seeds) * sum(sizes), desc="Training", unit=" texts", disable=not progress) as bar:
        for seed in seeds:
            order = nested_order(labels, seed)
            for size, fraction in sizes.items():
                rows = np.sort(order[:size])
                about = {"texts": size, "fraction": fraction, "seed": seed}
                if lacks := [names[label] for label in np.setdiff1d(labels, labels[rows])]:
                    skipped.append({**about, "lacks": lacks})
                else:
                    case = {"texts": size, "seed": seed}  # the same number of texts may be asked for as another part
                    measured.append({**about, **results.of(case, partial(score_part, runner, splits, rows, seed))})
                bar.update(size)
    return measured, skipped


def score_part(runner: Runner, splits: Mapping[str, Dataset], rows: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the scores of GPT-2, and of TF-IDF where it can be fitted, trained on some rows of `train`."""
    train, test = splits["train"].select(rows), splits["test"]
    predictions = {"gpt2": runner.train_to_the_end(rows, ("test", None), seed).argmax(axis=-1)}
    class_weight = runner.arguments[1].class_weight
    baselines = baseline_predictions(train["text"][:], train["label"][:], test["text"][:], class_weight)
    predictions |= {name: baselines[name] for name in ("tfidf",) if name in baselines}
    scores = {name: label_metrics(ids, np.array(test["label"])) for name, ids in predictions.items()}
    return {name: {score: figures[score] for score in SCORES} for name, figures in scores.items()}


def summarize(points: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a row a classifier and size, by rising size: `name`, `texts`, `fraction`, `seeds`, and mean and sd of each score.

    The sd is over seeds (n - 1), and missing for one seed.
    """
    rows = [{**point, **point[name], "name": name} for point in points for name in COLORS if name in point]
    groups = pd.DataFrame(rows).groupby(["name", "texts"])
    scores = {f"{score}_{kind}": (score, kind.replace("sd", "std")) for score in SCORES for kind in ("mean", "sd")}
    return groups.agg(fraction=("fraction", "first"), seeds=("seed", "size"), **scores).reset_index()


def curve_table(summary: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Return the table: a row a size, and for each classifier (of `titles`) mean and sd of its scores."""
    table = pd.DataFrame(index=pd.Index(summary["texts"].unique()).sort_values())
    for name in (name for name in titles if name in set(summary["name"])):
        of_name = summary[summary["name"] == name].set_index("texts")
        for score, title in SCORES.items():
            mean, sd = of_name[f"{score}_mean"], of_name[f"{score}_sd"]
            cells = [f"{m:.3f}" + ("" if np.isnan(s) else f" ± {s:.3f}") for m, s in zip(mean, sd, strict=True)]
            table[f"{titles[name].split(' + ')[0]} {title}"] = pd.Series(cells, of_name.index)
    shares = summary.groupby("texts")["fraction"].first()
    table.index = [f"{texts:,} ({100 * shares[texts]:g} %)" for texts in table.index]
    return table.fillna("").to_string()


def contradicts(guess: Mapping[str, Any]) -> bool:
    """Say whether a law expects less of twice the texts than was measured."""
    return guess["accuracy"] < guess["measured"] - MISFIT


def describe_guess(title: str, guess: dict[str, Any], seeds: int) -> str:
    """Return in one line a classifier's law and what it expects of twice the texts, or that it contradicts what was measured."""
    law = PowerLaw(*(guess[parameter] for parameter in "abc"))
    if contradicts(guess):
        expected = f"the one that fits best expects {guess['accuracy']:.3f} of {guess['texts']:,}"
        return (
            f"{title}: no estimate, since no power law fits: {guess['measured']:.3f} was measured, and {expected} texts"
        )
    interval = "no interval: one seed"
    if "accuracy_low" in guess:
        interval = f"{guess['accuracy_low']:.3f} - {guess['accuracy_high']:.3f}, 95 %, bootstrap over {seeds} seeds"
    line = f"{title}: {law}; with {guess['texts']:,} texts, accuracy {guess['accuracy']:.3f} ({interval})"
    if guess["misfit"] > MISFIT:
        line += f"; rely on it less: the law is off by {guess['misfit']:.3f} at a measured size (noise, or small parts that no power law fits)"
    return line


def draw_curves(
    points: Sequence[dict[str, Any]], guesses: Mapping[str, dict[str, Any]], titles: Mapping[str, str], title: str
) -> "Figure":
    """Draw both scores by the number of texts, a dot a seed, a band of one sd; the law of the accuracy dotted beyond.

    The law is drawn where it was measured too, so that a bad fit shows.
    """
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    figure, summary = Figure(figsize=(10, 4), dpi=120, layout="constrained"), summarize(points)
    figure.suptitle(shorten(title, 90), parse_math=False)
    ticks = sorted({int(texts) for texts in summary["texts"]} | {guess["texts"] for guess in guesses.values()})
    for axes, (score, name_of_score) in zip(figure.subplots(1, 2), SCORES.items(), strict=True):
        for name, of_name in summary.groupby("name", sort=False):
            color, texts = COLORS[name], of_name["texts"]
            mean, sd = of_name[f"{score}_mean"], of_name[f"{score}_sd"].fillna(0)
            axes.plot(texts, mean, "-", color=color, label=titles[name])
            low, high = (mean - sd).clip(lower=0), (mean + sd).clip(upper=1)
            axes.fill_between(texts, low, high, color=color, alpha=0.2, linewidth=0)
            dots = [(point["texts"], point[name][score]) for point in points if name in point]
            axes.plot(*zip(*dots, strict=True), "o", color=color, markersize=3)
            if score == "accuracy" and (guess := guesses.get(name)):
                law, sizes = (
                    PowerLaw(*(guess[parameter] for parameter in "abc")),
                    np.geomspace(ticks[0], guess["texts"]),
                )
                axes.plot(sizes, 1 - law(sizes), ":", color=color, label="its power law, to twice the texts")
                if "accuracy_low" in guess:
                    center, low, high = (guess[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
                    ends = [[max(center - low, 0)], [max(high - center, 0)]]
                    axes.errorbar(guess["texts"], center, ends, color=color, capsize=3)
        axes.set_xscale("log")
        axes.set_xticks(ticks, labels=[f"{texts:,}" for texts in ticks], rotation=30)
        axes.minorticks_off()
        axes.set(xlabel="training texts", title=f"{name_of_score[0].upper()}{name_of_score[1:]} on test")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)  # where it covers the least
    return figure
