import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recipe.data.readers import read_file
from recipe.errors import RecipeError
from recipe.inference.prediction_files import check_output_file, open_predictions

TEXTS = ["plain", "", 'two\nlines, and a "quote"', "nul \0", "carriage\rreturn", "🎉 / NA"]
LABELS = ["ham", "spam", None, "ham", "ham", "ham"]
PROBABILITIES = np.array([[1.0, 0.0], [1 / 3, 2 / 3], [0.5, 0.5], [0.9, 0.1], [0.999999996, 4e-9], [1e-5, 1 - 1e-5]])


def write_predictions(path, texts, labels, probabilities, names, others=None, **options):
    with open_predictions(path, names, **options) as writer:
        writer.write(texts, labels, probabilities, others or {})


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


def test_other_columns_of_the_input_are_kept(tmp_path):
    others = {"id": [7, None], "label": ["given", ""], "tags": [["a"], []]}
    for name in ("x.csv", "x.jsonl"):
        write_predictions(tmp_path / name, TEXTS[:2], LABELS[:2], PROBABILITIES[:2], ["ham", "spam"], others)
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert list(rows[0])[4:] == ["id", "input_label", "tags"]
    assert [(row["id"], row["label"], row["input_label"], row["tags"]) for row in rows] == [
        (7, "ham", "given", ["a"]),
        (None, "spam", "", []),
    ]
    frame = pd.read_csv(tmp_path / "x.csv", keep_default_na=False, dtype=str)
    assert frame["id"].tolist() == ["7", ""]
    assert frame["input_label"].tolist() == ["given", ""]


def test_nothing_is_left_where_writing_stops(tmp_path):
    (tmp_path / "x.csv").write_text("mine")

    def write():
        with open_predictions(tmp_path / "x.csv", ["ham", "spam"]) as writer:
            writer.write(TEXTS, LABELS, PROBABILITIES)
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert (tmp_path / "x.csv").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "x.csv").symlink_to(tmp_path / "real" / "y.csv")
    write_predictions(tmp_path / "x.csv", TEXTS, LABELS, PROBABILITIES, ["ham", "spam"])
    assert (tmp_path / "x.csv").is_symlink()
    assert len(pd.read_csv(tmp_path / "real" / "y.csv")) == len(TEXTS)


def test_no_spreadsheet_runs_a_text_and_we_read_it_back(tmp_path):
    """Cells that Excel, LibreOffice or Sheets run get an apostrophe; all others are the same to every reader."""
    texts = [
        "=1+1",
        "-2+3",
        "@SUM(1+9)*cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "+HYPERLINK(1)",
        "@ SUM (1)",
        "\t=x",
        "'=quoted",
        "''=",
    ]
    plain = [
        "@user are you free?",
        "-5 degrees",
        "+ one more",
        "+44 20",
        "a list | of things",
        f"+{' ' * 100_000}x",  # in no quadratic time
        "--",
        "-3.5",
        "+4412",
        "-1e-3",
        "'plain'",
        "'cause",
        "a=b",
        "'",
    ]
    formulas, texts = texts, [*texts, *plain]
    labels, probabilities = ["=ham"] * len(texts), np.full((len(texts), 2), 0.5)
    write_predictions(tmp_path / "x.csv", texts, labels, probabilities, ["=ham", "spam"])
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == [*(f"'{text}" for text in formulas), *plain]
    assert {row[1] for row in rows} == {"'=ham"}
    pd.read_csv(tmp_path / "x.csv").to_csv(tmp_path / "corrected.csv", columns=["text", "label"], index=False)
    assert read_file(tmp_path / "corrected.csv").frame["text"].tolist() == texts
    frame = read_file(tmp_path / "x.csv").frame
    assert frame["text"].tolist() == texts
    assert frame["label"].tolist() == labels
    write_predictions(tmp_path / "y.csv", texts, labels, probabilities, ["=ham", "spam"], escape_formulas=False)
    assert pd.read_csv(tmp_path / "y.csv")["text"].tolist() == texts
    write_predictions(tmp_path / "z.jsonl", texts, labels, probabilities, ["=ham", "spam"])
    assert pd.read_json(tmp_path / "z.jsonl", lines=True)["text"].tolist() == texts


def test_json_on_the_screen_holds_nothing_that_acts(capsys):
    hostile = "\x1b[2J \u202egnirts \x9b31m \u2028 é 🎉"
    write_predictions(None, [hostile], ["ham"], PROBABILITIES[:1], ["ham", "spam"])
    line = capsys.readouterr().out
    assert all(mark.isprintable() for mark in line.rstrip("\n"))
    assert json.loads(line)["text"] == hostile


@pytest.mark.parametrize("path", ["{}/" + "n" * 300 + ".csv", "{}/folder.csv", "{}/in.csv"])
def test_impossible_outputs_are_one_line(path, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "in.csv").write_text("text\na\n")
    with pytest.raises(RecipeError, match="output_file"):
        check_output_file(Path(path.format(tmp_path)), overwrite=True, inputs=[tmp_path / "in.csv"])


def test_columns_that_come_later_or_again(tmp_path, caplog):
    """JSON lines take every key; a CSV file's header is written first. Predictions of predictions keep all columns."""
    for name in ("x.csv", "x.jsonl"):
        with open_predictions(tmp_path / name, ["ham", "spam"]) as writer:
            for others in ({"id": [1], "input_label": ["b"], "label": ["a"]}, {"late": [2]}):
                writer.write(TEXTS[:1], LABELS[:1], PROBABILITIES[:1], others)
    first, second = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert (first["id"], first["input_label"], first["input_input_label"], second["late"]) == (1, "b", "a", 2)
    frame = pd.read_csv(tmp_path / "x.csv")
    assert list(frame.columns)[4:] == ["id", "input_label", "input_input_label"]
    assert frame["id"].isna().tolist() == [False, True]
    assert "left out of the CSV file: late" in caplog.text


def test_a_header_is_no_formula_either(tmp_path):
    write_predictions(tmp_path / "x.csv", TEXTS[:1], LABELS[:1], PROBABILITIES[:1], ["ham", "spam"], {"=1+1": ["x"]})
    assert (tmp_path / "x.csv").read_text().splitlines()[0].endswith(',"\'=1+1"')
