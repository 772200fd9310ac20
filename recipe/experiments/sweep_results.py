"""A sweep's results: its table, the best setting's spread over seeds, the command that trains it, and the picture."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t

from recipe.atomic import write_files
from recipe.config import field_of
from recipe.evaluation.plots import BLUE, save_figure
from recipe.model.freezing import LAST_BLOCKS

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
OPTIONS = {"learning_rate": "learning_rate", "depth": "trainable", "dropout": "dropout", "seed": "seed"}  # of train.py


def tabulate(trials: Sequence[FrozenTrial], steps_per_epoch: int) -> pd.DataFrame:
    """Return a row a trial, the best first: its values, `loss` and `accuracy` on validation, `epochs`, `state`, `seconds`.

    `loss` is that of the epoch whose model is kept; a trial that was pruned might have gone lower.
    """
    rows = []
    for trial in (trial for trial in trials if trial.state in STATES):
        state = "diverged" if "diverged" in trial.user_attrs else STATES[trial.state]
        epochs = round((trial.last_step or 0) / steps_per_epoch, 1)
        rows.append(
            {"trial": trial.number, **trial.params, "loss": trial.value, "accuracy": trial.user_attrs.get("accuracy")}
            | {"epochs": epochs, "state": state, "seconds": trial.duration.total_seconds()}
        )
    table = pd.DataFrame(rows)
    order = table["state"].map(["complete", "pruned", "diverged"].index)
    far = -table["epochs"].where(table["state"] != "complete", 0)  # early stopping ends complete ones at any epoch
    return table.assign(order=order, far=far).sort_values(["order", "far", "loss"]).drop(columns=["order", "far"])


def best_and_runner_up(table: pd.DataFrame, names: Sequence[str]) -> tuple[pd.Series, pd.Series | None]:
    """Return the rows of the best setting and of the next other one, whatever their seeds; the table's best is first.

    The runner-up may have been pruned: of these, the one that ran farthest.
    """
    best = table.iloc[0]
    settings = [name for name in names if name != "seed"]
    others = table[(table[settings] != best[settings]).any(axis=1) & (table["state"] != "diverged")]
    return best, others.iloc[0] if len(others) else None


def setting_of(row: pd.Series, names: Sequence[str]) -> dict[str, Any]:
    """Return a row's values as Python's own numbers."""
    return {name: row[name].item() if isinstance(row[name], np.generic) else row[name] for name in names}


def spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean and standard deviation of runs that differ by their seed alone, and where another run's loss would lie.

    `low` and `high` bound the 95 % prediction interval of one more run, if losses are normal: mean -+ t sd sqrt(1 + 1/n),
    and not below 0. Runs without a `loss` have diverged: they are counted, and the figures are of the others.
    """
    ended = [run for run in runs if "loss" in run]
    figures: dict[str, float] = {"runs": len(ended), "diverged": len(runs) - len(ended)}
    losses, accuracies = [run["loss"] for run in ended], [run["accuracy"] for run in ended]
    if ended:
        figures |= {"loss": float(np.mean(losses)), "accuracy": float(np.mean(accuracies))}
    if len(ended) > 1:
        sd = float(np.std(losses, ddof=1))
        reach = float(t.ppf(0.975, len(losses) - 1)) * sd * (1 + 1 / len(losses)) ** 0.5
        figures |= {"loss_sd": sd, "accuracy_sd": float(np.std(accuracies, ddof=1))}
        figures |= {"low": max(figures["loss"] - reach, 0.0), "high": figures["loss"] + reach}
    return figures


def describe_spread(figures: Mapping[str, float], runner_up: Mapping[str, Any] | None) -> str:
    """Return the sentences on the best setting's seeds, and on whether the runner-up is any different."""
    text = ""
    if figures["diverged"]:
        count = figures["diverged"] + figures["runs"]
        text = f"Of {count} other seeds, {figures['diverged']} diverged with the best setting: take a lower rate.\n"
    if "loss" not in figures:
        return text.strip()
    if "low" not in figures:
        text += f"One more seed of the best setting: validation loss {figures['loss']:.4f}"
        return text + "; two or more have a spread."
    text += (
        f"The best setting with {figures['runs']} other seeds: validation loss {figures['loss']:.4f}"
        f" (sd {figures['loss_sd']:.4f}), accuracy {figures['accuracy']:.4f} (sd {figures['accuracy_sd']:.4f}).\n"
    )
    if runner_up is None:
        return text + "There is no other setting to compare it with."
    if "loss" not in runner_up:
        return text + f"The runner-up diverged: {runner_up['diverged']}."
    loss = runner_up["loss"]
    inside = figures["low"] <= loss <= figures["high"]
    verdict = "it may differ by its seed alone" if inside else "a better one" if loss < figures["low"] else "worse"
    return text + (
        f"The runner-up's {loss:.4f} lies {'within' if inside else 'outside'} {figures['low']:.4f} to"
        f" {figures['high']:.4f}, where 95 % of single runs of the best setting would: {verdict}."
    )


def train_command(overrides: Sequence[str], setting: Mapping[str, Any], output_dir: Path) -> str:
    """Return the command of train.py for a setting: its values replace the sweep's options of these, and no token is kept."""
    replaced = {OPTIONS[name] for name in setting} | {"overwrite_output_dir", "hub_token"}
    words, kept = ["python", "scripts/train.py"], True
    for word in overrides:
        if word.startswith("--"):
            kept = field_of(word) not in replaced
        words += [word] if kept else []
    for name, value in setting.items():
        words += [f"--{OPTIONS[name]}", f"{LAST_BLOCKS}{value}" if name == "depth" else str(value)]
    return shlex.join([*words, "--output_dir", str(output_dir)])


def draw_sweep(path: Path, table: pd.DataFrame, figures: Mapping[str, float]) -> None:
    """Draw validation loss by learning rate, a line a depth, and the best setting's mean over its seeds, if it has one.

    Trials that were pruned are hollow, with the epochs that their loss comes from. Crosses at the top have diverged.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    depths = sorted(table["depth"].unique()) if "depth" in table else [None]
    colors = [BLUE] if len(depths) == 1 else matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(depths)))
    for depth, color in zip(depths, colors, strict=True):
        rows = table if depth is None else table[table["depth"] == depth]
        run = rows[rows["state"] != "diverged"].sort_values("learning_rate")
        axes.plot(run.groupby("learning_rate")["loss"].min(), color=color, linewidth=0.8, alpha=0.6)
        name = "complete" if depth is None else f"{depth} blocks train" if depth != 1 else "1 block trains"
        for state, fill in (("complete", color), ("pruned", "none")):
            chosen = run[run["state"] == state]
            label = name if state == "complete" else "pruned after so many epochs" if depth == depths[-1] else None
            axes.scatter(chosen["learning_rate"], chosen["loss"], facecolors=fill, edgecolors=color, label=label)
        for _, row in run[run["state"] == "pruned"].iterrows():
            place = row["learning_rate"], row["loss"]
            axes.annotate(f"{row['epochs']:g}", place, (5, 3), textcoords="offset points", fontsize=7, color=color)
        lost = rows.loc[rows["state"] == "diverged", "learning_rate"]
        axes.plot(lost, [0.97] * len(lost), "x", color=color, transform=axes.get_xaxis_transform())
    if "loss" in figures:
        error, place = figures.get("loss_sd", 0), table["learning_rate"].iloc[0]
        axes.errorbar(place, figures["loss"], error, fmt="_", color="black", capsize=4, label="best, other seeds (sd)")
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss")
    ratio = table["loss"].max() / table["loss"].min()
    subs = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if ratio < 10 else (1, 2, 5) if ratio < 1000 else (1,)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, frameon=False)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))
