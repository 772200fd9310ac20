"""Plots (optional): confusion matrix, reliability, and the model's accuracy beside its baselines', in one picture."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from recipe.atomic import write_files
from recipe.errors import RecipeError, shorten
from recipe.evaluation.intervals import calibration_error, reliability
from recipe.evaluation.report import TITLES, Measurement

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PLOT_FORMATS = (".png", ".svg", ".pdf")
NAME = 22  # characters of a label's name
COUNTED = 30  # labels: the cells of a larger matrix are too small for their counts
BLUE, GREY = "#2b6cb0", "#8a8f98"


def require_matplotlib() -> None:
    """Raise RecipeError if matplotlib, an extra, is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RecipeError("plot_file needs matplotlib: pip install 'gpt2-classifier-recipe[plots]'") from error


def can_draw() -> bool:
    """Return whether matplotlib is installed; log a warning if not."""
    try:
        require_matplotlib()
    except RecipeError:
        logger.warning("no pictures: they need matplotlib: pip install 'gpt2-classifier-recipe[plots]'")
        return False
    return True


def save_plot(path: Path, measured: Measurement, title: str) -> None:
    """Draw the three panels into a .png, .svg or .pdf file, which is written completely or not at all."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    side = matrix_side(measured)
    figure = Figure(figsize=(side + 5.5, side + 0.5), dpi=120, layout="constrained")
    figure.suptitle(shorten(f"{title}: {len(measured.labels)} texts", 90), parse_math=False)
    heights = [min(side - 2, 5), 2, max(side - 7, 0.01)]  # beside a tall matrix, the lowest part stays free
    grid = figure.add_gridspec(3, 2, width_ratios=[side, 5], height_ratios=heights)
    draw_confusion(figure.add_subplot(grid[:, 0]), measured, side)
    draw_reliability(figure.add_subplot(grid[0, 1]), measured)
    draw_accuracies(figure.add_subplot(grid[1, 1]), measured)
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
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
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
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, columnspacing=1, frameon=False)


def draw_curve(axes: "Axes", curve: "pd.DataFrame", name: str, color: str) -> None:
    """Draw a dot for each bin, its area by the number of texts: a bin of few texts says little, however far off."""
    label, confidence, accuracy = f"{name}ECE {calibration_error(curve):.3f}", curve["confidence"], curve["accuracy"]
    axes.plot(confidence, accuracy, "o-", color=color, markersize=2, linewidth=0.8, alpha=0.5, label=label)
    axes.scatter(confidence, accuracy, s=250 * curve["texts"] / curve["texts"].sum(), color=color)


def draw_accuracies(axes: "Axes", measured: Measurement) -> None:
    """Draw accuracies with their 95 % intervals, the model on top."""
    rows = {TITLES[name]: measured.baselines[name][0] for name in TITLES if name in measured.baselines}
    rows[measured.model_name] = measured.scores
    for height, (title, figures) in enumerate(rows.items()):
        accuracy, low, high = (figures[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
        color, offset = BLUE if title == measured.model_name else GREY, {"textcoords": "offset points", "ha": "center"}
        axes.errorbar(accuracy, height, xerr=[[accuracy - low], [high - accuracy]], fmt="o", color=color, capsize=3)
        axes.annotate(f"{accuracy:.3f}", (accuracy, height), (0, 6), fontsize=8, **offset)
    axes.set_yticks(range(len(rows)), labels=[title.replace(" + ", " +\n") for title in rows], fontsize=8)
    axes.margins(x=0.12)
    axes.set(title="Accuracy, 95 % intervals", ylim=(-0.5, len(rows) - 0.3))
    axes.grid(axis="x", alpha=0.3)
