"""Predictions out: CSV or JSON lines, whole or not at all."""

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recipe.atomic import save_whole
from recipe.errors import RecipeError

FORMATS = (".csv", ".jsonl", ".ndjson", ".json")


def check_output_file(
    path: Path, overwrite: bool, formats: Sequence[str] = FORMATS, field: str = "output_file"
) -> None:
    """Before any work: a known ending, a folder that is there, and no file of the user's in the way."""
    if path.suffix.lower() not in formats:
        raise RecipeError(f"{field} {path}: unknown ending {path.suffix!r}: take one of {', '.join(formats)}")
    if not path.parent.is_dir():
        raise RecipeError(f"{field} {path}: the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise RecipeError(f"{field} {path}: the folder {path.parent} cannot be written to: take another one")
    if path.exists() and not overwrite:
        raise RecipeError(f"{field} {path} exists: give another one, or pass --overwrite_output_file")


def write_predictions(
    path: Path | None,
    texts: Sequence[str],
    labels: Sequence[str | None],
    probabilities: np.ndarray,
    label_names: Sequence[str],
) -> None:
    """Writes text, label and probability_X for each label X, a row a text; to the screen (JSON lines) if path is None.

    Args:
        labels: None where the model abstains: an empty cell, or null.
        probabilities: float [N, num_labels], in the order of label_names.
    """
    columns = {f"probability_{name}": probabilities[:, i] for i, name in enumerate(label_names)}
    frame = pd.DataFrame({"text": list(texts), "label": list(labels), **columns})
    if path is None:
        sys.stdout.write(as_json_lines(frame))
        return
    if path.suffix.lower() == ".csv":
        # All texts quoted: a lone carriage return in one would end its row for most readers.
        content = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    else:
        content = as_json_lines(frame)
    save_whole(path.parent, lambda folder: (folder / path.name).write_text(content, encoding="utf-8", newline=""))


def as_json_lines(frame: pd.DataFrame) -> str:
    return frame.to_json(orient="records", lines=True, force_ascii=False, double_precision=8)
