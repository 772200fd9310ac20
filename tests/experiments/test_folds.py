"""Folds: a partition of all rows, stratified and grouped; figures against scikit-learn; what an interruption leaves."""

import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import make_texts, tiny_folder
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from recipe.config import parse_arguments
from recipe.data.group_and_time_splits import join_groups
from recipe.data.trained_on import save_trained_on
from recipe.errors import RecipeError
from recipe.experiments import folds as module
from recipe.experiments.folds import (
    corrected_interval,
    fold_figures,
    load_training_rows,
    make_folds,
    out_of_fold_baselines,
    out_of_fold_logits,
)

NAMES = ["medicine", "sport", "technology"]


def arguments(data, *fields):
    words = ["--model_name_or_path", str(tiny_folder()), "--train_file", str(data), "--output_dir", "none"]
    return parse_arguments([*words, *map(str, fields)])


@pytest.fixture
def rows():
    """90 sport, 45 medicine and 15 technology, with 40 groups of many sizes."""
    labels = ["sport", "sport", "medicine"] * 50
    labels[:60:4] = ["technology"] * 15
    frame = pd.concat([make_texts(1, [label], seed=i) for i, label in enumerate(labels)], ignore_index=True)
    group = np.random.default_rng(0).geometric(0.08, len(frame)).astype(str)
    return frame.assign(text=frame["text"] + frame.index.astype(str), group=group, source="a.csv", row=frame.index + 2)


def test_folds_are_stratified(rows):
    fold_of = make_folds(rows.drop(columns="group"), 4, 0)
    table = pd.crosstab(rows["label"], fold_of)
    assert table.to_numpy().sum() == len(rows)
    assert (table.max(axis=1) - table.min(axis=1)).max() <= 1
    assert np.array_equal(fold_of, make_folds(rows.drop(columns="group"), 4, 0))
    assert not np.array_equal(fold_of, make_folds(rows.drop(columns="group"), 4, 1))


def test_groups_stand_in_one_fold(rows):
    fold_of = make_folds(rows, 3, 5)
    assert set(fold_of) == {0, 1, 2}
    assert (pd.Series(fold_of).groupby(rows["group"].to_numpy()).nunique() == 1).all()
    splitter = StratifiedGroupKFold(3, shuffle=True, random_state=5)
    for fold, (_, test) in enumerate(splitter.split(rows, rows["label"], rows["group"].factorize()[0])):
        assert np.array_equal(np.flatnonzero(fold_of == fold), test)


def test_copies_stand_in_one_fold(rows):
    rows = pd.concat([rows, rows[:30]], ignore_index=True).drop(columns="group")
    fold_of = make_folds(rows, 5, 0)
    assert np.array_equal(fold_of[:30], fold_of[-30:])


def test_groups_are_joined_by_their_texts():
    rows = pd.DataFrame({"text": ["x", "y", "y", "z", "w"], "group": ["a", "a", "b", "b", "c"]})
    joined = join_groups(rows)
    assert len(set(joined[:4])) == 1
    assert joined[4] != joined[0]
    assert len(set(join_groups(rows[["text"]]))) == 4


@pytest.mark.parametrize(
    ("change", "folds", "message"),
    [
        ({}, 16, "a.csv: label 'technology' has 15 rows, too few for 16 folds"),
        ({"group": "one"}, 2, "2 folds cannot be made .* number of groups: 1"),
        ({"group": lambda rows: rows["label"]}, 2, "one fold would be empty, or hold all rows of a label"),
    ],
)
def test_folds_that_cannot_be_made(rows, change, folds, message):
    with pytest.raises(RecipeError, match=message):
        make_folds(rows.assign(**change), folds, 0)


def test_all_training_rows_and_no_given_ones(rows, tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    rows[:120].to_csv(train, index=False)
    rows[110:].to_csv(test, index=False)
    found, names = load_training_rows(arguments(train, "--group_column", "group"))
    assert names == NAMES
    assert found[["text", "label", "group", "row"]].to_numpy().tolist() == (
        rows[:120][["text", "label", "group", "row"]].to_numpy().tolist()
    )
    found, _ = load_training_rows(arguments(train, "--test_file", test))
    assert found["text"].tolist() == rows["text"][:110].tolist()


def test_rows_are_not_split_or_limited_first(rows, tmp_path):
    """A label of two rows could not be split in three; a split by time would give up rows of groups."""
    rows.to_csv(tmp_path / "a.csv", index=False)
    given = ["--split_method", "time", "--time_column", "row", "--group_column", "group", "--max_eval_samples", "5"]
    found, _ = load_training_rows(arguments(tmp_path / "a.csv", *given))
    assert found["text"].tolist() == rows["text"].tolist()
    found, _ = load_training_rows(arguments(tmp_path / "a.csv", "--max_train_samples", "50"))
    assert len(found) == 50
    assert found["row"].is_monotonic_increasing
    found, _ = load_training_rows(arguments(tmp_path / "a.csv", "--undersample", "all"))
    assert found["label"].value_counts().tolist() == [15, 15, 15]
    with pytest.raises(RecipeError, match=r"undersample is train: .* take all, or none"):
        load_training_rows(arguments(tmp_path / "a.csv", "--undersample", "train"))
    rows.sort_values("label").groupby("label").head(2).to_csv(tmp_path / "few.csv", index=False)
    assert len(load_training_rows(arguments(tmp_path / "few.csv"))[0]) == 6
    with pytest.raises(RecipeError, match="single label"):
        load_training_rows(arguments(tmp_path / "a.csv", "--max_train_samples", "1"))


def test_a_model_that_knows_the_texts_is_refused(rows, tmp_path):
    rows.to_csv(tmp_path / "a.csv", index=False)
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_folder().iterdir():
        (model / path.name).symlink_to(path)
    save_trained_on(model, rows["text"][:7], tiny_folder())
    with pytest.raises(RecipeError, match="was trained on 7 of the 150 texts"):
        load_training_rows(arguments(tmp_path / "a.csv", "--model_name_or_path", model))


def test_ignored_options_are_told(rows, tmp_path, caplog):
    rows.to_csv(tmp_path / "a.csv", index=False)
    load_training_rows(arguments(tmp_path / "a.csv", "--split_method", "time", "--time_column", "row"))
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[-1].startswith("split_method time: folds are drawn at random")


def test_each_text_is_predicted_without_it_and_interruptions_lose_nothing(rows, tmp_path, monkeypatch):
    trained, stop_at = [], 2

    def predict(runner, train, test):
        if len(trained) == stop_at:
            raise KeyboardInterrupt
        name, its = test
        assert name == "train"
        trained.append(set(train))
        assert trained[-1] | set(its) == set(range(len(rows)))
        assert not trained[-1] & set(its)
        numbers = [NAMES.index(label) for label in rows["label"].iloc[its]]
        return np.array([[len(rows["text"].iloc[i]), n, len(trained)] for i, n in zip(its, numbers, strict=True)])

    monkeypatch.setattr(module.Runner, "train_to_the_end", predict)
    fold_of, kept = make_folds(rows, 4, 0), tmp_path / "kept"
    given = (rows, NAMES, fold_of, kept)
    model = shutil.copytree(tiny_folder(), tmp_path / "model")
    given_model = arguments("a.csv", "--model_name_or_path", model)
    with pytest.raises(KeyboardInterrupt):
        out_of_fold_logits(given_model, *given)
    stop_at = None
    logits = out_of_fold_logits(given_model[:-1] + arguments("a.csv", "--output_dir", "another")[-1:], *given)
    assert len(trained) == 4
    assert logits.dtype == np.float32
    assert logits[:, 0].tolist() == rows["text"].str.len().tolist()
    assert [NAMES[int(i)] for i in logits[:, 1]] == rows["label"].tolist()
    assert np.array_equal(logits[:, 2], fold_of + 1)
    out_of_fold_logits(arguments("a.csv", "--model_name_or_path", model, "--learning_rate", "0.1"), *given)
    assert len(trained) == 8
    out_of_fold_logits(given_model, rows.assign(label=rows["label"][::-1].tolist()), *given[1:])
    assert len(trained) == 12  # a label that was corrected
    save_file(load_file(model / "model.safetensors"), model / "model.safetensors", {"saved": "again"})
    out_of_fold_logits(given_model, *given)
    assert len(trained) == 16


def test_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels, fold_of = rng.normal(size=(60, 3)), rng.integers(0, 3, 60), np.arange(60) % 4
    predictions = logits.argmax(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    figures = fold_figures(predictions, labels, fold_of, logits)

    def reference(chosen):
        return {
            "accuracy": accuracy_score(labels[chosen], predictions[chosen]),
            "macro_f1": f1_score(labels[chosen], predictions[chosen], average="macro"),
            "loss": log_loss(labels[chosen], probabilities[chosen], labels=[0, 1, 2]),
        }

    assert figures["pooled"] == pytest.approx(reference(fold_of >= 0))
    by_fold = [reference(fold_of == fold) for fold in range(4)]
    assert figures["folds"] == [pytest.approx({"texts": 15, **one}) for one in by_fold]
    for name in reference(fold_of >= 0):
        values = [one[name] for one in by_fold]
        mean, sd = np.mean(values), np.std(values, ddof=1)
        half = 3.1824463 * np.sqrt((1 / 4 + 1 / 3) * sd**2)  # t of 3 degrees of freedom
        summary = [figures[x][name] for x in ("mean", "sd", "low", "high")]
        assert summary == pytest.approx([mean, sd, max(mean - half, 0), mean + half])


def test_interval_covers_the_mean_of_many_repetitions():
    """Of independent folds, for which 1/K alone would do, it covers more than 95 %; shares stay within 0 and 1."""
    draws = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 2000)))
    low, high = corrected_interval(draws)
    assert 0.97 < ((low < 0) & (high > 0)).mean() <= 1
    labels = np.array([0, 1] * 10)
    figures = fold_figures(np.array([1, *labels[1:]]), labels, np.arange(20) // 4)
    assert figures["high"] == {"accuracy": 1, "macro_f1": 1}
    assert "loss" not in figures["pooled"]


def test_baselines_are_those_of_scikit_learn(rows):
    labels = np.random.default_rng(0).permutation(rows["label"].map(NAMES.index))  # which words do not tell
    fold_of = make_folds(rows, 4, 0)
    predicted = out_of_fold_baselines(rows, labels, fold_of, "none")
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    expected = cross_val_predict(pipeline, rows["text"], labels, cv=PredefinedSplit(fold_of))
    assert np.array_equal(predicted["tfidf"], expected)
    assert 0 < (predicted["tfidf"] == labels).mean() < 0.7
    assert set(predicted["majority"]) == {NAMES.index("sport")}
