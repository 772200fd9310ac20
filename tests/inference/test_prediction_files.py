import json

import numpy as np
import pandas as pd
import pytest

from recipe.errors import RecipeError
from recipe.inference.prediction_files import check_output_file, write_predictions

TEXTS = ["plain", "", 'two\nlines, and a "quote"', "nul \0", "carriage\rreturn", "🎉 / NA"]
LABELS = ["ham", "spam", None, "ham", "ham", "ham"]
PROBABILITIES = np.array([[1.0, 0.0], [1 / 3, 2 / 3], [0.5, 0.5], [0.9, 0.1], [0.999999996, 4e-9], [1e-5, 1 - 1e-5]])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson", ".json"])
def test_rows_are_read_back_as_they_were(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_predictions(path, TEXTS, LABELS, PROBABILITIES, ["ham", "spam"])
    rows = pd.read_csv(path, keep_default_na=False) if suffix == ".csv" else pd.read_json(path, lines=True)
    assert list(rows.columns) == ["text", "label", "probability_ham", "probability_spam"]
    assert rows["text"].tolist() == TEXTS
    missing = "" if suffix == ".csv" else None
    assert [label if isinstance(label, str) else None for label in rows["label"]] == [
        missing if label is None else label for label in LABELS
    ]
    np.testing.assert_allclose(rows.filter(like="probability_"), PROBABILITIES, atol=5e-9)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_json_lines_on_the_screen(capsys):
    write_predictions(None, TEXTS, LABELS, PROBABILITIES, ["ham", "spam"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == LABELS
    assert rows[1]["probability_spam"] == 0.66666667


def test_no_text_is_a_header_alone(tmp_path):
    write_predictions(tmp_path / "x.csv", [], [], np.empty((0, 2)), ["ham", "spam"])
    assert (tmp_path / "x.csv").read_text() == '"text","label","probability_ham","probability_spam"\n'


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    check_output_file(tmp_path / "x.csv", overwrite=True)
    check_output_file(tmp_path / "y.jsonl", overwrite=False)
    for path, message in (
        ("x.csv", "exists: give another one, or pass --overwrite_output_file"),
        ("x.parquet", "unknown ending '.parquet': take one of .csv, .jsonl, .ndjson, .json"),
        ("none/x.csv", "does not exist: make it first"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_output_file(tmp_path / path, overwrite=False)
