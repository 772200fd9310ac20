"""Pictures of a run (optional): how its training went and what its test shows, a .png file each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipe.atomic import write_files
from recipe.evaluation.intervals import wilson_interval
from recipe.evaluation.plots import BLUE, GREY, can_draw, draw_confusion, draw_reliability, matrix_side, save_figure
from recipe.evaluation.report import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"  # in a run's output_dir
NAMES = ("training", "confusion_matrix", "reliability", "precision_recall", "length")
LENGTH_BINS = 8  # of about as many texts each


def save_run_figures(
    run_dir: str | Path, measured: Measurement, log_history: Sequence[dict[str, Any]], draw: bool = True
) -> None:
    """Draw a run's pictures into its folder `figures`, in place of those of an earlier run.

    Without matplotlib, an extra, log how to get them and draw nothing.

    Args:
        measured: the test.
        log_history: Trainer's, of `trainer.state`.
        draw: False only removes those of an earlier run.
    """
    folder = Path(run_dir) / FOLDER
    for name in NAMES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    if not draw or not can_draw():
        return
    figures = draw_run(measured, log_history)
    write_files(folder, lambda to: [save_figure(figure, to / f"{name}.png") for name, figure in figures.items()])


def draw_run(measured: Measurement, log_history: Sequence[dict[str, Any]]) -> dict[str, "Figure"]:
    """Return the pictures by name: those of NAMES that the run has something for."""
    figures = (
        {"training": draw_training(log_history)}
        if any({"loss", "eval_loss"} & entry.keys() for entry in log_history)
        else {}
    )
    side = matrix_side(measured) - (1.5 if len(measured.label_names) < 6 else 0)
    figures["confusion_matrix"], axes = new_figure(side, side)
    draw_confusion(axes, measured, side)
    figures["reliability"], axes = new_figure(5.5, 4.5)
    draw_reliability(axes, measured)
    if len(measured.label_names) == 2 and len(set(measured.labels)) == 2:
        figures["precision_recall"], axes = new_figure(5.5, 4.5)
        draw_precision_recall(axes, measured)
    if measured.coverage is not None:
        figures["length"], axes = new_figure(6.5, 4)
        draw_length(axes, measured)
    return figures


def new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots()


def draw_training(log_history: Sequence[dict[str, Any]]) -> "Figure":
    """Draw losses, and accuracy and macro F1 on validation, by step, with epochs on top."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    log = pd.DataFrame(log_history).set_index("step")
    panels = [
        {"loss": "training", "eval_loss": "validation"},
        {"eval_accuracy": "accuracy", "eval_macro_f1": "macro F1"},
    ]
    panels = [known for panel in panels if (known := {name: panel[name] for name in panel if name in log})]
    figure = Figure(figsize=(5 * len(panels), 3.8), dpi=120, layout="constrained")
    for axes, lines in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, title in lines.items():
            values = log[name].dropna()
            is_first = title in ("training", "macro F1")
            axes.plot(values, "o-", markersize=3, linewidth=1, color=GREY if is_first else BLUE, label=title)
        is_loss = "eval_accuracy" not in lines
        axes.set(
            xlabel="step", ylabel="cross entropy" if is_loss else "share", title="Loss" if is_loss else "Validation"
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
        last = log[log["epoch"] > 0].iloc[-1]
        steps = float(last.name / last["epoch"])  # of an epoch
        epochs = axes.secondary_xaxis("top", functions=(lambda x, n=steps: x / n, lambda x, n=steps: x * n))
        epochs.set_xlabel("epoch")
        epochs.xaxis.set_major_locator(MaxNLocator(integer=last["epoch"] >= 2))
    return figure


def draw_precision_recall(axes: "Axes", measured: Measurement) -> None:
    """Draw precision by recall of the second label of two, and where the model decides."""
    from sklearn.metrics import PrecisionRecallDisplay, precision_score, recall_score

    name, second = measured.label_names[1], measured.probabilities[:, 1]
    PrecisionRecallDisplay.from_predictions(measured.labels, second, ax=axes, name="the model", plot_chance_level=True)
    at = [score(measured.labels, measured.predictions, zero_division=0) for score in (recall_score, precision_score)]
    label = f"threshold {0.5 if measured.threshold is None else measured.threshold:.3g}"
    axes.plot(*at, "o", color="black", label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"Precision and recall of {name!r}", parse_math=False)
    axes.legend(fontsize=8, loc="best")


def draw_length(axes: "Axes", measured: Measurement) -> None:
    """Draw accuracy by tokens of a text, in bins of about as many texts, with 95 % intervals."""
    lengths, right = measured.coverage.lengths, measured.predictions == measured.labels
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1), method="nearest"))
    bins = pd.Series(np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(len(edges) - 2, 0)))
    for _, rows in bins.groupby(bins):
        share, (low, high) = right[rows.index].mean(), wilson_interval(int(right[rows.index].sum()), len(rows))
        middle = float(np.median(lengths[rows.index]))
        axes.errorbar(middle, share, yerr=[[share - low], [high - share]], fmt="o", color=BLUE, capsize=3)
        axes.annotate(
            len(rows), (middle, low), (0, -11), textcoords="offset points", ha="center", fontsize=7, color=GREY
        )
    if lengths.max() > measured.coverage.limit:
        axes.axvline(measured.coverage.limit, color=GREY, linestyle=":", label="longer texts are cut here")
        axes.legend(fontsize=8, frameon=False)
    if lengths.max() > 20 * max(np.median(lengths), 1):
        axes.set_xscale("log")
    axes.set(
        xlabel="tokens of a text (median of a bin, and below it how many texts)",
        ylabel="accuracy",
        title="Accuracy by length, 95 % intervals",
    )
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
