"""The picture of experiments: a row's accuracy with its interval, its seeds' spread, and what was published."""

from pathlib import Path

import pandas as pd

from recipe.atomic import write_files
from recipe.evaluation.plots import BLUE, GREY, cut_middle, save_figure


def draw_experiments(path: Path, table: pd.DataFrame) -> None:
    """Draw the rows that were run, the first on top (see rows.summarize)."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    rows = table[table["accuracy"].notna()].iloc[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)), dpi=120, layout="constrained")
    axes, heights = figure.subplots(), range(len(rows))
    errors = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    axes.errorbar(rows["accuracy"], heights, xerr=errors, fmt="o", color=BLUE, capsize=3, label="mean, 95 % interval")
    axes.plot(rows["published"], heights, "D", color=GREY, markersize=5, label="published, of another model")
    axes.axvline(rows["accuracy"].iloc[-1], color=BLUE, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        heights, labels=[cut_middle(name) if len(name) > 40 else name for name in rows.index], parse_math=False
    )
    axes.set(xlabel="accuracy on the test, %", ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))
