"""Prediction files: CSV or JSON lines, written completely or not at all."""

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipe.atomic import write_text
from recipe.errors import RecipeError

FORMATS = (".csv", ".jsonl", ".ndjson", ".json")


def check_output_file(
    path: Path, overwrite: bool, formats: Sequence[str] = FORMATS, field: str = "output_file"
) -> None:
    """Raise RecipeError, before any work, for an unknown ending, a folder that cannot be written to, or an existing file."""
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
    """Write text, label and probability_X for each label X, a row a text; to the screen (JSON lines) if path is None.

    Args:
        labels: None where the model abstains: an empty cell, or null.
        probabilities: float [N, num_labels], by label id; written to 8 decimals.
    """
    columns = ["text", "label", *(f"probability_{name}" for name in label_names)]
    rows = list(zip(texts, labels, *probabilities.round(8).T.tolist(), strict=True))
    content = io.StringIO()
    if path is not None and path.suffix.lower() == ".csv":
        # All texts quoted: a lone carriage return in one would end its row for most readers.
        csv.writer(content, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows([columns, *rows])
    else:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False), file=content)
    if path is None:
        sys.stdout.write(content.getvalue())
    else:
        write_text(path, content.getvalue())
