"""Power law of a learning curve: the error falls as e(n) = a n^-b + c with the number n of texts (Hestness et al., 2017)."""

import contextlib
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeWarning, curve_fit

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
