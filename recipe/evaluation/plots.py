"""Plots (optional): what evaluate_model.py draws in one picture, and a run's pictures, a .png file each."""

import functools
import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from recipe.atomic import write_files
from recipe.errors import as_recipe_error, shorten
from recipe.evaluation.intervals import calibration_error, reliability, wilson_interval
from recipe.evaluation.report import PICTURES, TITLES, Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PLOT_FORMATS = (".png", ".svg", ".pdf")
NAME = 22  # characters of a label's name
COUNTED = 30  # labels: the cells of a larger matrix are too small for their counts
BESIDE = 8  # inches: a larger matrix has the other panels under it
LENGTH_BINS = 8  # of about as many texts each
IN_POINTS = {"textcoords": "offset points", "ha": "center"}  # a note beside its dot
BLUE, GREY = "#2b6cb0", "#8a8f98"


def require_matplotlib() -> None:
    """Raise RecipeError if matplotlib, an extra, is not installed."""
    with as_recipe_error(ImportError, "plot_file needs matplotlib", "pip install 'gpt2-classifier-recipe[plots]'"):
        import matplotlib  # noqa: F401


def can_draw() -> bool:
    """Return whether matplotlib is installed; log a warning if not."""
    installed = importlib.util.find_spec("matplotlib") is not None
    if not installed:
        logger.warning("no pictures: they need matplotlib: pip install 'gpt2-classifier-recipe[plots]'")
    return installed


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save_plot(path: Path, measured: Measurement, title: str) -> None:
    """Draw the three panels into a .png, .svg or .pdf file, which is written completely or not at all."""
    side = matrix_side(measured)
    # Figures of their own: the space that long names take from the matrix is not taken from the other panels.
    if side > BESIDE:
        figure = new_figure(side, side + 4.5)
        matrix, others = figure.subfigures(2, 1, height_ratios=[side, 4])
        reliability_axes, accuracy_axes = others.subplots(1, 2)
    else:
        figure = new_figure(side + 5.5, side + 0.5)
        matrix, others = figure.subfigures(1, 2, width_ratios=[side, 5.5])
        reliability_axes, accuracy_axes = others.subplots(2, 1, height_ratios=[3, 1.5])
    figure.suptitle(shorten(f"{title}: {len(measured.labels)} texts", 90), parse_math=False)
    draw_confusion(matrix.subplots(), measured, side)
    draw_reliability(reliability_axes, measured)
    draw_accuracies(accuracy_axes, measured)
    write_figure(figure, path)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure into a .png, .svg or .pdf file, completely or not at all."""
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure, in the format of the path's suffix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a script that the font lacks
        figure.savefig(path)


def matrix_side(measured: Measurement) -> float:
    """Return the inches that a confusion matrix needs, by its labels."""
    return float(np.clip(3 + 0.3 * len(measured.label_names), 5.5, 16))


def draw_confusion(axes: "Axes", measured: Measurement, side: float) -> None:
    """Draw the counts, each row shaded by its shares, into a square of `side` inches."""
    names, matrix = [cut_middle(name) for name in measured.label_names], measured.confusion
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    cell = 72 * (side - 2) / len(names)  # points
    font = float(np.clip(cell * 0.45, 3, 10))
    fits = max(map(len, names)) * font * 0.6 < cell  # a name over its column
    rotation = {} if fits else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), labels=names, fontsize=font, parse_math=False, **rotation)
    axes.set_yticks(range(len(names)), labels=names, fontsize=font, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    if len(names) <= COUNTED:
        size = float(np.clip(cell / (0.75 * len(str(matrix.max()))), 3, 11))
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=size, color=color)


def cut_middle(name: str) -> str:
    """Return a long name without its middle: names that begin alike often end differently."""
    return name if len(name) <= NAME else f"{name[: NAME - 9]}...{name[-6:]}"


def draw_reliability(axes: "Axes", measured: Measurement) -> None:
    """Draw accuracy by confidence: on the diagonal, a model is right as often as it is confident."""
    after = reliability(measured.probabilities, measured.labels)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="as often right as confident")
    shares = after["texts"] / after["texts"].sum()
    axes.bar(after["confidence"], shares, width=0.03, color=BLUE, alpha=0.2, label="share of texts")
    if measured.temperature is not None:
        before = reliability(softmax(measured.uncalibrated_logits, axis=-1), measured.labels)
        draw_curve(axes, before, "before calibration, ", GREY)
    draw_curve(axes, after, "" if measured.temperature is None else "after, ", BLUE)
    low = 1 / len(measured.label_names)  # no top probability is under it
    axes.set(xlim=(low - 0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence (top probability)", ylabel="accuracy")
    axes.set_title("Reliability")
    # Under the label of the axis: 36 points, whatever the height.
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 36 / 8}
    axes.legend(fontsize=8, **place, ncols=2, columnspacing=1, frameon=False)


def draw_curve(axes: "Axes", curve: "pd.DataFrame", name: str, color: str) -> None:
    """Draw a dot for each bin, its area by the number of texts: a bin of few texts says little, however far off."""
    label, confidence, accuracy = f"{name}ECE {calibration_error(curve):.3f}", curve["confidence"], curve["accuracy"]
    axes.plot(confidence, accuracy, "o-", color=color, markersize=2, linewidth=0.8, alpha=0.5, label=label)
    axes.scatter(confidence, accuracy, s=250 * curve["texts"] / curve["texts"].sum(), color=color, clip_on=False)


def draw_accuracies(axes: "Axes", measured: Measurement) -> None:
    """Draw accuracies with their 95 % intervals, the model on top."""
    rows = {TITLES[name]: measured.baselines[name][0] for name in reversed(measured.baselines)}
    rows[measured.model_name] = measured.scores
    for height, (title, figures) in enumerate(rows.items()):
        accuracy, low, high = (figures[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
        color = BLUE if title == measured.model_name else GREY
        axes.errorbar(accuracy, height, xerr=[[accuracy - low], [high - accuracy]], fmt="o", color=color, capsize=3)
        axes.annotate(f"{accuracy:.3f}", (accuracy, height), (0, 6), fontsize=8, **IN_POINTS)
    axes.set_yticks(range(len(rows)), labels=[title.replace(" + ", " +\n") for title in rows], fontsize=8)
    axes.margins(x=0.12)
    axes.set(title="Accuracy, 95 % intervals", ylim=(-0.5, len(rows) - 0.3))
    axes.grid(axis="x", alpha=0.3)


def save_run_figures(
    run_dir: str | Path, measured: Measurement, log_history: Sequence[dict[str, Any]], draw: bool = True
) -> None:
    """Draw a run's pictures into its folder `figures`, in place of those of an earlier run; with draw=False, only remove these.

    Without matplotlib, an extra, log how to get it and draw nothing.
    """
    folder = Path(run_dir) / "figures"
    for name in PICTURES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    if not draw or not can_draw():
        return
    figures = draw_run(measured, log_history)
    write_files(folder, lambda to: [save_figure(figure, to / f"{name}.png") for name, figure in figures.items()])


def draw_run(measured: Measurement, log_history: Sequence[dict[str, Any]]) -> dict[str, "Figure"]:
    """Return the pictures by name: those of PICTURES that the run has something for."""
    side = matrix_side(measured) - (1.5 if len(measured.label_names) < 6 else 0)
    drawn = {
        "confusion_matrix": (side, side, functools.partial(draw_confusion, side=side)),
        "reliability": (5.5, 4.5, draw_reliability),
    }
    if len(measured.label_names) == 2 and len(set(measured.labels)) == 2:
        drawn["precision_recall"] = (5.5, 4.5, draw_precision_recall)
    if measured.coverage is not None:
        drawn["length"] = (6.5, 4, draw_length)
    figures = {}
    for name, (width, height, draw) in drawn.items():
        figures[name] = new_figure(width, height)
        draw(figures[name].subplots(), measured)
    if any({"loss", "eval_loss"} & entry.keys() for entry in log_history):
        figures["training"] = draw_training(log_history)
    return figures


def draw_training(log_history: Sequence[dict[str, Any]]) -> "Figure":
    """Draw losses, and accuracy and macro F1 on validation, by epoch."""
    log = pd.DataFrame(log_history).set_index("epoch")
    panels = {
        ("Loss", "cross entropy"): {"loss": ("training", GREY), "eval_loss": ("validation", BLUE)},
        ("Validation", "share"): {"eval_accuracy": ("accuracy", BLUE), "eval_macro_f1": ("macro F1", GREY)},
    }
    panels = {texts: lines for texts, lines in panels.items() if lines.keys() & set(log)}
    figure = new_figure(5 * len(panels), 3.8)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((title, unit), lines) in zip(all_axes, panels.items(), strict=True):
        for name, (label, color) in lines.items():
            if name in log:
                axes.plot(log[name].dropna(), "o-", markersize=3, linewidth=1, color=color, label=label)
        axes.set(xlabel="epoch", ylabel=unit, title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
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
    axes.set_title(f"Precision and recall of {cut_middle(name)!r}", parse_math=False)
    axes.set_aspect("auto")
    axes.legend(fontsize=8, loc="best")


def draw_length(axes: "Axes", measured: Measurement) -> None:
    """Draw accuracy by tokens of a text, in bins of about as many texts, with 95 % intervals."""
    lengths, right = measured.coverage.lengths, measured.predictions == measured.labels
    texts = pd.DataFrame({"length": lengths, "right": right})
    bins = (texts["length"].rank(method="min") - 1) * LENGTH_BINS // len(texts)
    for _, rows in texts.groupby(bins):
        share, (low, high) = rows["right"].mean(), wilson_interval(int(rows["right"].sum()), len(rows))
        middle = rows["length"].median()
        axes.errorbar(middle, share, yerr=[[share - low], [high - share]], fmt="o", color=BLUE, capsize=3)
        axes.annotate(len(rows), (middle, low), (0, -11), fontsize=7, color=GREY, **IN_POINTS)
    if lengths.max() > measured.coverage.limit:
        axes.axvline(measured.coverage.limit, color=GREY, linestyle=":", label="longer texts are cut here")
        axes.legend(fontsize=8, frameon=False)
    if lengths.max() > 20 * max(np.median(lengths), 1):
        axes.set_xscale("log")
    axes.set(xlabel="tokens of a text (median of a bin, and below it how many texts)", ylabel="accuracy")
    axes.set_title("Accuracy by length, 95 % intervals")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
