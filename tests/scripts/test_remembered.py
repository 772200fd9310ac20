"""What a saved model's files are read with is what its own run was: nothing has to be said again."""

import json
import sys

import pandas as pd
import pytest
from conftest import assert_refused, make_texts, tiny_folder, train_on

from recipe.data.run_config import reading_of

LABELS = ["sport", "médecine"]
EVALUATE = [sys.executable, "scripts/evaluate_model.py", "--no_baselines"]
PREDICT = [sys.executable, "scripts/predict.py"]


@pytest.fixture(scope="module")
def frame():
    frame = make_texts(40, ["sport", "medicine"])
    frame = frame.replace({"label": {"medicine": "médecine"}}).assign(text="é " + frame["text"])
    frame = frame.rename(columns={"text": "Description", "label": "Class Index"})
    return frame.assign(Title=[f"title {i}" for i in range(len(frame))])


def to_csv(frame, path, **options):
    frame.to_csv(path, index=False, **options)
    return path


def run_on(data, folder, *fields):
    train_on(tiny_folder(), data, folder, *fields)
    return folder


def test_columns_format_and_encoding_need_not_be_given_again(frame, tmp_path, run_here):
    columns = ["Title", "Class Index", "Description"]
    options = {"columns": columns, "sep": "|", "encoding": "cp1252", "header": False}
    data = to_csv(frame, tmp_path / "train.csv", **options)
    fields = ["--column_names", *columns, "--delimiter", "|", "--encoding", "cp1252"]
    run = run_on(data, tmp_path / "run", "--text_column", "Description", "--label_column", "class index", *fields)
    new = to_csv(frame[:10], tmp_path / "new.csv", **options)

    predictions = tmp_path / "predicted.jsonl"
    result = run_here([*PREDICT, "--model_dir", run, "--input_file", new, "--output_file", predictions])
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["text"] for row in rows] == frame["Description"][:10].tolist()

    answers, figures = tmp_path / "answers.csv", tmp_path / "figures.json"
    outputs = ["--predictions_file", answers, "--output_file", figures]
    result = run_here([*EVALUATE, "--model_dir", run, "--test_file", new, *outputs])
    assert result.returncode == 0, result.stderr
    assert set(pd.read_csv(answers)["text"]) == set(frame["Description"][:10])
    assert set(pd.read_csv(answers)["label"]) == set(LABELS)

    # A file in UTF-8 is read as that.
    utf8 = to_csv(frame[:10], tmp_path / "utf8.csv", sep="|", columns=columns)
    result = run_here([*PREDICT, "--model_dir", run, "--input_file", utf8])
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == frame["Description"][:10].tolist()


def test_a_file_without_the_columns_of_training_is_refused(frame, tmp_path, run_here):
    run = run_on(
        to_csv(frame, tmp_path / "train.csv"),
        tmp_path / "run",
        "--text_column",
        "Description",
        "--label_column",
        "Class Index",
    )
    other = to_csv(frame.drop(columns="Description").assign(text="x"), tmp_path / "other.csv")
    message = "no column 'Description' among 'Class Index', 'Title', 'text': name it with --text_column"
    assert_refused(run_here([*PREDICT, "--model_dir", run, "--input_file", other]), message)
    result = run_here([*EVALUATE, "--model_dir", run, "--test_file", other])
    assert_refused(result, message)
    result = run_here([*PREDICT, "--model_dir", run, "--input_file", other, "--text_column", "Title"])
    assert json.loads(result.stdout.splitlines()[0])["text"] == "title 0"
    card = (run / "README.md").read_text()
    assert "The texts were read from `Description`, the labels from `Class Index`." in card


def test_several_columns_are_joined_as_in_training(frame, tmp_path, run_here):
    data = to_csv(frame.rename(columns={"Class Index": "label"}), tmp_path / "train.csv")
    run = run_on(data, tmp_path / "run", "--text_column", "Title", "Description", "--text_pair_separator", " | ")
    assert reading_of(run)["label_column"] == "label"  # which was found
    result = run_here([*PREDICT, "--model_dir", run, "--input_file", data])
    texts = (frame["Title"] + " | " + frame["Description"]).tolist()
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == texts


def test_a_model_of_several_columns_keeps_them_when_it_is_trained_again(frame, tmp_path, run_here):
    data = to_csv(frame.rename(columns={"Class Index": "label"}), tmp_path / "train.csv")
    run = run_on(data, tmp_path / "run", "--text_column", "Title", "Description")
    train_on(run, data, tmp_path / "again")
    assert reading_of(tmp_path / "again")["text_column"] == ["Title", "Description"]
    # Trained on one column, it reads texts of one part.
    train_on(run, data, tmp_path / "one", "--text_column", "Description")
    tokenizer = json.loads((tmp_path / "one" / "tokenizer_config.json").read_text())
    assert "text_pair_separator" not in tokenizer
    result = run_here([*PREDICT, "--model_dir", run, "--input_file", data, "--text_column", "Title"])
    assert "note: the model was trained on 2 columns of texts, and 1 are read" in result.stderr


def test_rows_without_a_label_are_dropped_as_in_training(frame, tmp_path, run_here):
    frame = frame.rename(columns={"Class Index": "label", "Description": "text"})
    frame.loc[3, "label"], frame.loc[5, "label"] = None, "?"
    data, answers = to_csv(frame, tmp_path / "train.csv"), tmp_path / "answers.csv"
    run = run_on(data, tmp_path / "run", "--drop_missing", "true", "--missing_label", "?")
    result = run_here([*EVALUATE, "--model_dir", run, "--test_file", data, "--predictions_file", answers])
    assert result.returncode == 0, result.stderr
    assert len(pd.read_csv(answers)) == 38
