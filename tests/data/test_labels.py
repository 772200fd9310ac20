from decimal import Decimal

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from recipe.arguments import DataArguments
from recipe.data.dataset import load_splits, same_texts
from recipe.data.rows import canonical_name, order_labels
from recipe.errors import RecipeError


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("true", [True, "True", "TRUE", " true", np.True_]),
        ("1", [1, 1.0, "1", "1.0", "1.00", " 1 ", Decimal("1.00"), np.int64(1)]),
        ("0", [0, 0.0, -0.0, "0", "-0", "0.0", "-0.0"]),
        ("-3", [-3, -3.0, "-3", "-3.0"]),
        ("10000000000000000", [10**16, 1e16, "1e+16", "10000000000000000"]),
        ("01", ["01", "01 "]),
        ("1.50", ["1.50"]),
        ("0.5", [0.5, "0.5", Decimal("0.5")]),
        ("1e3", ["1e3"]),
        ("+1", ["+1"]),
        ("Spam", ["Spam", " Spam "]),
    ],
)
def test_each_value_has_one_name(name, values):
    assert [canonical_name(value) for value in values] == [name] * len(values)


def test_names_of_floats_are_as_pandas_writes_them():
    for number in (0.0, -0.0, 1.0, -2.0, 1e15, 1e16, 1.5e17, 1e22, 123456789.0, 0.5, 1e-7, 1 / 3):
        written = pd.Series([number]).to_csv(index=False, header=False).strip()
        assert canonical_name(written) == canonical_name(number)


@pytest.mark.parametrize(
    ("labels", "names"),
    [([True, False], ["false", "true"]), ([1, 0], ["0", "1"]), ([1.0, 2.0], ["1", "2"]), (["01", "1"], ["01", "1"])],
)
def test_labels_read_the_same_in_every_format(tmp_path, labels, names):
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(40)], "label": labels * 20})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    dataset = datasets.Dataset.from_pandas(frame)
    dataset.save_to_disk(tmp_path / "one")
    (tmp_path / "hub").mkdir()
    dataset.to_parquet(tmp_path / "hub" / "train.parquet")
    files = [DataArguments(train_file=tmp_path / name) for name in ("a.csv", "a.jsonl", "a.parquet", "one")]
    expected = load_splits(files[0])
    assert expected.label_names == names
    for args in [*files[1:], DataArguments(dataset_name=str(tmp_path / "hub"))]:
        splits = load_splits(args)
        assert splits.label_names == names
        assert same_texts(splits, expected)


def test_a_boolean_column_of_pandas_meets_one_of_json(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{i},{i % 2 == 0}\n" for i in range(40)))
    (tmp_path / "b.jsonl").write_text('{"text": "a", "label": true}\n{"text": "b", "label": false}\n')
    splits = load_splits(DataArguments(train_file=tmp_path / "a.csv", test_file=tmp_path / "b.jsonl"))
    assert splits.label_names == ["false", "true"]
    assert splits["test"]["label"][:] == [1, 0]


def write_labels(folder, labels, name):
    path = folder / name
    texts = [f"text {i}" for i in range(len(labels))]
    if name.endswith(".parquet"):
        pa.parquet.write_table(pa.table({"text": texts, "label": labels}), path)
    elif name.endswith(".csv"):
        pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    else:
        pd.DataFrame({"text": texts, "label": labels}).to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_fractions_are_refused_as_regression_unless_beside_names(tmp_path, name):
    path = write_labels(tmp_path, [1.0, 0.5, 2.0, 0.25] * 10, name)
    with pytest.raises(RecipeError, match=rf"{name}: rows .*\(20 in all\) have a fractional label \(regression\)"):
        load_splits(DataArguments(train_file=path))
    path = write_labels(tmp_path, ["1.5", "3", "beta", "1.5"] * 10, name)
    assert load_splits(DataArguments(train_file=path)).label_names == ["1.5", "3", "beta"]
    whole = write_labels(tmp_path, [1, 2] * 20, name)
    path = write_labels(tmp_path, [1, 0.5], f"test-{name}")
    with pytest.raises(RecipeError, match=rf"test-{name}: row \d has a fractional label"):
        load_splits(DataArguments(train_file=whole, test_file=path))


@pytest.mark.parametrize("labels", [[1.0, float("nan")], [1, None], ["a", None], ["a", ""], ["a", " "], [True, None]])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_missing_label_is_an_error_in_every_format(tmp_path, labels, name):
    path = write_labels(tmp_path, labels[:1] * 5 + labels[1:], name)
    with pytest.raises(RecipeError, match=rf"{name}: row {7 if name == 'a.csv' else 6} has no label"):
        load_splits(DataArguments(train_file=path))


def test_labels_of_the_same_letters_are_pointed_out(tmp_path, caplog):
    """Composed and decomposed accents, a zero-width space: the same on a screen."""
    path = write_labels(tmp_path, ["caf\u00e9", "cafe\u0301", "sport", "sport\u200b"] * 10, "a.csv")
    assert len(load_splits(DataArguments(train_file=path)).label_names) == 4
    assert "--normalize_labels true merges them" in caplog.text
    assert load_splits(DataArguments(train_file=path, normalize_labels=True)).label_names == ["caf\u00e9", "sport"]


def test_whole_numbers_of_any_length_are_labels(tmp_path):
    path = write_labels(tmp_path, [10**400, -(10**30)] * 10, "a.jsonl")
    assert load_splits(DataArguments(train_file=path)).label_names == [str(-(10**30)), str(10**400)]


SPELLINGS = ["Spam", "ham", " spam", "SPAM", "ham", "not  spam", "Not Spam", "spam"]


def test_spellings_are_pointed_out_in_one_warning(tmp_path, caplog):
    path = write_labels(tmp_path, SPELLINGS * 5, "a.csv")
    args = DataArguments(train_file=path)
    assert load_splits(args).label_names == ["Not Spam", "SPAM", "Spam", "ham", "not  spam", "spam"]
    (warning,) = [record.getMessage() for record in caplog.records if "look alike but for" in record.getMessage()]
    assert "'spam' (10)/'Spam' (5)/'SPAM' (5)" in warning
    assert "'not  spam' (5)/'Not Spam' (5)" in warning
    assert "--normalize_labels true" in warning
    assert "'ham'" not in warning
    args.normalize_labels = True
    caplog.clear()
    caplog.set_level("INFO", logger="recipe")
    splits = load_splits(args)
    assert splits.label_names == ["ham", "not spam", "spam"]
    assert sum(sum(of.values()) for of in splits.summary["labels"].values()) == 40
    assert "look alike but for" not in caplog.text
    assert "6 spellings of labels are merged into 3 labels" in caplog.text


def test_merged_labels_take_the_heads_spelling(tmp_path, caplog):
    path = write_labels(tmp_path, ["spam", "HAM", "Spam", "ham"] * 10, "a.csv")
    args = DataArguments(train_file=path, normalize_labels=True)
    assert load_splits(args, ["SPAM", "Ham"]).label_names == ["SPAM", "Ham"]
    assert load_splits(args, ["SPAM", "other"]).label_names == ["SPAM", "ham"]
    path = write_labels(tmp_path, ["spam", "ham"] * 20, "b.csv")
    assert load_splits(DataArguments(train_file=path), ["Spam", "Ham"]).label_names == ["ham", "spam"]
    assert "--normalize_labels true takes its spelling" in caplog.text
    path = write_labels(tmp_path, [True, False] * 20, "c.csv")
    assert load_splits(DataArguments(train_file=path), ["True", "False"]).label_names == ["True", "False"]


def test_a_test_label_in_another_spelling_is_refused_with_a_fix(tmp_path):
    files = {"train_file": write_labels(tmp_path, ["spam", "ham"] * 20, "a.csv")}
    (tmp_path / "test.csv").write_text("text,label\nx,ham\ny,Spam\n")
    files["test_file"] = tmp_path / "test.csv"
    with pytest.raises(RecipeError, match=r"test\.csv: row 3 has .* such as 'Spam': .*--normalize_labels true merges"):
        load_splits(DataArguments(**files))
    assert load_splits(DataArguments(**files, normalize_labels=True))["test"]["label"][:] == [0, 1]


def test_declared_names_count_only_where_they_hold_the_labels():
    labels = pd.Series(["b", "a"])
    assert order_labels(labels, ["b", "c", "a"], None) == ["b", "c", "a"]
    assert order_labels(labels, ["b", "c"], None) == ["a", "b"]
    assert order_labels(pd.Series(["10", "9", "-1"]), None, None) == ["-1", "9", "10"]


def test_a_number_of_many_digits_is_a_name():
    assert canonical_name("1" * 5000 + ".0") == "1" * 5000
    assert canonical_name("-0.0") == canonical_name(-0.0) == "0"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["27", "4", "27,4"], r"several labels in one, such as '27,4', with ',' between"),
        (["drama", "war", "drama|war"], r"such as 'drama\|war'"),
        (["a;b", "b;c", "a;c"], "such as '.;.'"),
        (["yes", "no", "-"], "the label '-', which often stands for none: pass --missing_label -"),
        (["0", "1", "2", "-1"], "the label '-1', which often stands for none: pass --missing_label -1"),
        (["['cs.CV', 'cs.LG']", "['cs.CV']"], "several labels"),
    ],
)
def test_cells_that_seem_no_label_of_their_own_are_asked_about(tmp_path, labels, message):
    with pytest.raises(RecipeError, match=message):
        load_splits(DataArguments(train_file=write_labels(tmp_path, labels * 10, "a.csv")))


@pytest.mark.parametrize(
    ("labels", "options", "names"),
    [
        (["27", "4", "27,4"], {"label_separator": "none"}, ["27", "27,4", "4"]),
        (["Politics, World", "Sports"], {}, ["Politics, World", "Sports"]),
        (["HR, Legal", "HR, Finance"], {}, ["HR, Finance", "HR, Legal"]),
        (["+", "-"], {}, ["+", "-"]),
        (["-1", "0", "1"], {}, ["-1", "0", "1"]),
        (["0", "1", "2", "-1"], {"missing_label": "-1"}, ["0", "1", "2"]),
        (["0", "1", "2", "-1"], {"missing_label": "none"}, ["-1", "0", "1", "2"]),
        (["yes", "no", "-"], {"missing_label": "-"}, ["no", "yes"]),
        (["0", "1", "2", "-1"], {"missing_label": "-1.0"}, ["0", "1", "2"]),
        (["yes", "none", "-"], {"missing_label": "none"}, ["-", "none", "yes"]),
        (["['cs.CV']", "['cs.LG']"], {}, ["cs.CV", "cs.LG"]),
        ([["x"], ["y"]], {}, ["x", "y"]),
    ],
)
def test_labels_are_taken_for_what_they_are(tmp_path, labels, options, names):
    path = write_labels(tmp_path, labels * 10, "a.jsonl")
    splits = load_splits(DataArguments(train_file=path, **options))
    assert sorted(splits.label_names) == names
    assert sum(splits.summary["texts"].values()) == 10 * len(names)


def test_a_missing_label_that_no_row_has_is_warned_about(tmp_path, caplog):
    caplog.set_level("INFO")
    load_splits(DataArguments(train_file=write_labels(tmp_path, ["yes", "no"] * 10, "a.jsonl"), missing_label="N/A"))
    assert "missing_label is 'N/A', a label that no row has" in caplog.text
