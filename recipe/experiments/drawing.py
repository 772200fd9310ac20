"""Pictures of comparisons: the rows of experiments with what was published, GPT-2 with its peers, and folds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recipe.atomic import write_files
from recipe.errors import shorten
from recipe.evaluation.plots import BLUE, GREY, cut_middle, save_figure
from recipe.experiments.peers import FIGURES, TITLES


def draw_experiments(path: Path, table: pd.DataFrame) -> None:
    """Draw the rows that were run, the first on top (see rows.summarize)."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    rows = table[table["accuracy"].notna()].iloc[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)), dpi=120, layout="constrained")
    axes, heights = figure.subplots(), range(len(rows))
    errors = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    axes.errorbar(rows["accuracy"], heights, xerr=errors, fmt="o", color=BLUE, capsize=3, label="mean, 95 % interval")
    axes.plot(rows["published"], heights, "D", color=GREY, markersize=5, label="published, of another model")
    if rows.index[-1] == table.index[0]:
        axes.axvline(rows["accuracy"].iloc[-1], color=BLUE, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        heights, labels=[cut_middle(name) if len(name) > 40 else name for name in rows.index], parse_math=False
    )
    axes.set(xlabel="accuracy on the test, %", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))


def draw_peers(path: Path, measured: Mapping[str, dict[str, Any]], title: str) -> None:
    """Draw accuracy with its interval, both times and the size (logarithmic); GPT-2 on top."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    figure = Figure(figsize=(12, 1.4 + 0.5 * len(measured)), dpi=120, layout="constrained")
    figure.suptitle(shorten(title, 90), parse_math=False)
    names, panels = list(measured)[::-1], [name for name in FIGURES if name != "macro_f1"]
    colors = [BLUE if name == "gpt2" else GREY for name in names]
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        values = np.array([measured[name][panel] for name in names])
        if panel == "accuracy":
            low, high = (np.array([measured[name][f"accuracy_{end}"] for name in names]) for end in ("low", "high"))
            axes.hlines(range(len(names)), low, high, colors=colors)
        else:
            axes.set_xscale("log")
        axes.scatter(values, range(len(names)), color=colors)
        for height, value in enumerate(values):
            number = f"{value:.3f}" if panel == "accuracy" else f"{value:.3g}"
            axes.annotate(number, (value, height), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axes.set_yticks(range(len(names)), labels=[TITLES[name].replace(" + ", " +\n") for name in names], fontsize=8)
        axes.set(xlabel=FIGURES[panel], ylim=(-0.5, len(names) - 0.3))
        axes.margins(x=0.12)
        axes.grid(axis="x", alpha=0.3)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))


def draw_folds(path: Path, figures: Mapping[str, dict[str, Any]], titles: Mapping[str, str]) -> None:
    """Draw accuracy and macro F1 of each fold as a ring, and their mean with its interval; GPT-2 on top.

    Args:
        figures: of each classifier, what folds.fold_figures returns.
        titles: how each is called.
    """
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    names = [name for name in figures if name != "majority"][::-1]  # which is far off, and would squeeze the others
    figure = Figure(figsize=(10, 1.4 + 0.6 * len(names)), dpi=120, layout="constrained")
    for axes, (score, name_of_score) in zip(
        figure.subplots(1, 2, sharey=True), {"accuracy": "accuracy", "macro_f1": "macro F1"}.items(), strict=True
    ):
        for height, name in enumerate(names):
            color, found = BLUE if name == "gpt2" else GREY, figures[name]
            folds = [fold[score] for fold in found["folds"]]
            axes.plot(folds, [height - 0.2] * len(folds), "o", color=color, markersize=4, fillstyle="none")
            mean, low, high = (found[what][score] for what in ("mean", "low", "high"))
            axes.errorbar(mean, height, xerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=3)
            axes.annotate(f"{mean:.3f}", (mean, height), (0, 5), textcoords="offset points", ha="center", fontsize=8)
        axes.set_yticks(range(len(names)), labels=[titles[name] for name in names])
        axes.set(xlabel=f"{name_of_score}: mean of folds, 95 % interval; a ring a fold", ylim=(-0.6, len(names) - 0.3))
        axes.grid(axis="x", alpha=0.3)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))
