"""Prediction files: CSV or JSON lines, written as predictions come, and in their place once all have."""

import contextlib
import csv
import glob
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from recipe.atomic import finite, open_text
from recipe.data.texts import escape
from recipe.errors import RecipeError, as_recipe_error

logger = logging.getLogger(__name__)

FORMATS = (".csv", ".jsonl", ".ndjson", ".json")
FILES_OF_A_RUN = ("config.json", "tokenizer.json", "tokenizer_config.json", "run_state.json", "data_summary.json")
FILES_OF_A_RUN += ("complete.json", "trainer_state.json", *(f"{x}_results.json" for x in ("train", "eval", "test")))
FILES_OF_A_RUN += ("vocab.json", "special_tokens_map.json", "generation_config.json", "model.safetensors.index.json")
FILES_OF_A_RUN += ("test_predictions.csv",)


def check_output_file(
    path: Path,
    overwrite: bool,
    formats: Sequence[str] = FORMATS,
    field: str = "output_file",
    inputs: Sequence[str | Path] = (),
    model_dir: str | Path | None = None,
) -> None:
    """Raise RecipeError, before any work, for a file that cannot be written, that exists, or that is an input or the model's."""
    if path.suffix.lower() not in formats:
        raise RecipeError(f"{field} {path}: unknown ending {path.suffix!r}: take one of {', '.join(formats)}")
    with as_recipe_error((OSError, ValueError), f"{field} {str(path)[:200]}: cannot be written", "give another one"):
        if not path.parent.is_dir():
            raise RecipeError(f"{field} {path}: the folder {path.parent} does not exist: make it first")
        if path.is_dir():
            raise RecipeError(f"{field} {path}: is a folder: give a file in it")
        if path.exists():
            files = [file for given in inputs for file in (given, *glob.glob(str(given), recursive=True))]
            if any(os.path.exists(file) and path.samefile(file) for file in files):
                raise RecipeError(f"{field} {path}: is an input file, which would be lost: give another one")
            if not overwrite:
                raise RecipeError(f"{field} {path} exists: give another one, or pass --overwrite_output_file")
            is_inside = model_dir and path.resolve().is_relative_to(Path(model_dir).expanduser().resolve())
            if is_inside and path.name in FILES_OF_A_RUN:
                raise RecipeError(f"{field} {path}: is a file of the model's folder: give another one")
        if not os.access(path.parent, os.W_OK):
            raise RecipeError(f"{field} {path}: the folder {path.parent} cannot be written to: take another one")


class PredictionWriter:
    """Writes text, label, probability_X for each label X, and the input's other columns: a row a text, in their order.

    An input column of one of these names is written as `input_NAME`.
    """

    def __init__(self, file: TextIO, is_csv: bool, label_names: Sequence[str], escape_formulas: bool):
        self.file, self.is_csv, self.escape_formulas = file, is_csv, escape_formulas
        self.columns = ["text", "label", *(f"probability_{name}" for name in label_names)]
        # All texts quoted: a lone carriage return in one would end its row for most readers.
        self.csv = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        self.others: list[str] | None = None  # the input's columns in the header of a CSV file

    def write(
        self,
        texts: Sequence[str],
        labels: Sequence[str | None],
        probabilities: np.ndarray,
        others: Mapping[str, Sequence[Any]] = {},
    ) -> None:
        """Write some rows: probabilities, float [N, num_labels], to 8 decimals; a label of None as an empty cell, or null."""
        names = list(self.columns)
        for name in others:
            while name in names:
                name = f"input_{name}"
            names.append(name)
        if self.is_csv:
            change = escape if self.escape_formulas else (lambda cell: cell)
            if self.others is None:
                self.csv.writerow(map(change, names))
                self.others = list(others)
            if new := ", ".join(name for name in others if name not in self.others):
                logger.warning("columns that are not in the first rows are left out of the CSV file: %s", new)
            others = {name: others.get(name, [None] * len(texts)) for name in self.others}
        rows = zip(texts, labels, *probabilities.round(8).T.tolist(), *others.values(), strict=True)
        if self.is_csv:
            self.csv.writerows([change(cell) for cell in row] for row in rows)
            return
        for row in rows:
            line = json.dumps(finite(dict(zip(names, row, strict=True))), ensure_ascii=False, default=str)
            if not line.isprintable():  # such as controls, which act on a terminal
                line = "".join(mark if mark.isprintable() else json.dumps(mark)[1:-1] for mark in line)
            print(line, file=self.file)


@contextlib.contextmanager
def open_predictions(
    path: Path | None, label_names: Sequence[str], escape_formulas: bool = True
) -> Iterator[PredictionWriter]:
    """Open a file for predictions, CSV or JSON lines by its ending; JSON lines on the screen if path is None."""
    if path is None:
        yield PredictionWriter(sys.stdout, False, label_names, False)
        return
    with open_text(path) as file:
        writer = PredictionWriter(file, path.suffix.lower() == ".csv", label_names, escape_formulas)
        yield writer
        if writer.others is None:
            writer.write([], [], np.empty((0, len(label_names))))
