"""scripts/find_label_errors.py, run through the shell on a file as cross_validate.py writes it."""

import csv
import sys

import numpy as np
import pandas as pd
from conftest import assert_one_line, run

from recipe.inference.prediction_files import open_predictions

SCRIPT = ["python", "scripts/find_label_errors.py"]


def write_predictions(path, flipped):
    """100 texts of two labels, of which some have the other one."""
    true = np.arange(100) % 2
    given = np.where(np.isin(np.arange(100), flipped), 1 - true, true)
    probabilities = np.where(true[:, None] == [0, 1], 0.9, 0.1)
    names = ["=ham", "sp\x1bam"]
    others = {"predicted_label": [names[i] for i in true], "row": list(range(2, 102))}
    with open_predictions(path, names) as writer:
        writer.write([f"=text {i}" for i in range(100)], [names[i] for i in given], probabilities, others)
    return path


def test_flips_are_found_and_nothing_acts(tmp_path):
    predictions = write_predictions(tmp_path / "out.csv", [10, 20, 31])
    result = run(*SCRIPT, "--predictions", predictions, "--output_file", tmp_path / "suspects.csv")
    assert (result.returncode, result.stderr) == (0, "")
    summary, saved = result.stdout.splitlines()
    assert summary == "3 of 100 texts are probably mislabelled: sp\ufffdam -> =ham 2, =ham -> sp\ufffdam 1"
    assert saved == f"Saved to {tmp_path / 'suspects.csv'}"
    header, *rows = csv.reader((tmp_path / "suspects.csv").open())
    labels = ["label", "probability_of_label", "likelier_label", "probability_of_likelier_label"]
    assert header == ["row", "text", *labels]
    assert sorted(rows) == [
        ["12", "'=text 10", "sp\x1bam", "0.1", "'=ham", "0.9"],
        ["22", "'=text 20", "sp\x1bam", "0.1", "'=ham", "0.9"],
        ["33", "'=text 31", "'=ham", "0.1", "sp\x1bam", "0.9"],
    ]


def test_jsonl_without_errors(tmp_path, run_here):
    predictions = write_predictions(tmp_path / "out.jsonl", [])
    result = run_here([*SCRIPT, "--predictions", predictions, "--output_file", tmp_path / "suspects.csv"])
    assert result.stdout.splitlines()[0] == "0 of 100 texts are probably mislabelled"
    assert pd.read_csv(tmp_path / "suspects.csv").empty


def test_mistakes_end_in_one_line(tmp_path, run_here, monkeypatch):
    predictions = write_predictions(tmp_path / "out.csv", [])
    given = [*SCRIPT, "--predictions", predictions, "--output_file"]
    assert_one_line(run_here([*given, predictions, "--overwrite_output_file"]), "is an input file")
    assert_one_line(run_here([*given, tmp_path / "a.json"]), "unknown ending '.json'")
    absent = [*SCRIPT, "--predictions", tmp_path / "no.csv", "--output_file", tmp_path / "a.csv"]
    assert_one_line(run_here(absent), "no.csv")
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    assert_one_line(run_here([*given, tmp_path / "a.csv"]), "pip install 'gpt2-classifier-recipe[labels]'")
