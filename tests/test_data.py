import datasets
import pandas as pd
import pytest
from conftest import make_texts

from recipe.arguments import DataArguments
from recipe.data import load_splits
from recipe.errors import RecipeError


def load(tmp_path, content, name="train.csv", **fields):
    path = tmp_path / name
    path.write_text(content)
    return load_splits(DataArguments(train_file=str(path), **fields))


def csv(labels, start=0):
    return "text,label\n" + "".join(f"text {i + start},{label}\n" for i, label in enumerate(labels))


def test_labels_have_one_order_whatever_the_files(tmp_path):
    for labels in (["b", "a", "c"], ["c", "b", "a"]):
        assert load(tmp_path, csv(labels * 20)).id2label == {0: "a", 1: "b", 2: "c"}
    assert load(tmp_path, csv([10, 9, 2] * 20)).label_names == ["2", "9", "10"]
    lines = "".join(f'{{"text": "t{i}", "label": {i % 2}}}\n' for i in range(40))
    splits = load(tmp_path, lines, "train.jsonl")
    assert splits.label_names == ["0", "1"]
    assert all(
        int(text[1:]) % 2 == label for text, label in zip(splits.train["text"], splits.train["label"], strict=True)
    )


def test_a_kept_head_orders_the_labels(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv(["ham", "spam"] * 20))
    args = DataArguments(train_file=str(path))
    assert load_splits(args, ["spam", "ham"]).label_names == ["spam", "ham"]
    assert load_splits(args, ["spam", "other"]).label_names == ["ham", "spam"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", csv(["a", "b", "", "a"]), r"a\.csv: row 4 has no label: fill in the label or drop the row"),
        ("a.csv", "text,label\nx,a\n,b\ny,a\n,b\n", r"rows 3, 5 \(2 in all\) have no text"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": null, "label": "b"}\n', "row 2 has no text"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"label": "b"}\n', "row 2 has no text"),
        ("a.jsonl", '{"text": "x", "label": ["a", "b"]}\n', "row 1 has several labels"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', "row 1 has a fractional label"),
        ("a.jsonl", '{"text": 7, "label": "a"}\n', "row 1 has a text that is no string"),
        ("a.csv", csv(["a"] * 10), "all rows have the label 'a'"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, content, message):
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, content, name)


def test_a_label_that_training_never_saw(tmp_path):
    (tmp_path / "test.csv").write_text(csv(["a", "b", "c"], start=100))
    with pytest.raises(
        RecipeError, match=r"test\.csv: row 4 has a label that the training data lacks, such as 'c'.*'a', 'b'"
    ):
        load(tmp_path, csv(["a", "b"] * 20), test_file=str(tmp_path / "test.csv"))


def test_empty_is_not_missing(tmp_path):
    splits = load(tmp_path, csv(["a", "b"] * 20) + '"",a\n')
    assert "" in {text for frame in (splits.train, splits.validation, splits.test) for text in frame["text"]}


def test_a_hub_dataset_keeps_its_own_label_names(tmp_path):
    frame = make_texts(40, ["sport", "medicine"])
    names = datasets.ClassLabel(names=["sport", "medicine"])  # not in alphabetical order
    table = {"content": frame["text"].tolist(), "category": [names.str2int(label) for label in frame["label"]]}
    features = datasets.Features({"content": datasets.Value("string"), "category": names})
    train = datasets.Dataset.from_dict(table, features=features)
    unlabelled = datasets.Dataset.from_dict({"content": ["x"], "category": [-1]}, features=features)
    folder = tmp_path / "hub"
    folder.mkdir()
    train.to_parquet(folder / "train.parquet")
    unlabelled.to_parquet(folder / "test.parquet")
    splits = load_splits(DataArguments(dataset_name=str(folder)))
    assert splits.label_names == ["sport", "medicine"]
    by_text = dict(zip(frame["text"], frame["label"], strict=True))
    merged = pd.concat([splits.train, splits.validation, splits.test])
    assert len(merged) == 40  # the test split without labels was left aside
    assert all(
        splits.label_names[label] == by_text[text] for text, label in zip(merged["text"], merged["label"], strict=True)
    )


def test_files_stand_in_for_a_hub_datasets_splits(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    make_texts(60, ["sport", "medicine"]).to_csv(folder / "train.csv", index=False)
    make_texts(10, ["sport", "medicine"], seed=2).to_csv(tmp_path / "mine.csv", index=False)
    splits = load_splits(DataArguments(dataset_name=str(folder), test_file=str(tmp_path / "mine.csv")))
    assert splits.test["text"].tolist() == pd.read_csv(tmp_path / "mine.csv")["text"].tolist()
    with pytest.raises(RecipeError, match="nowhere"):
        load_splits(DataArguments(dataset_name=str(folder), validation_file="nowhere.csv"))


def test_a_dataset_that_is_not_there():
    with pytest.raises(RecipeError, match=r"dataset 'nobody/nothing' cannot be loaded.*--train_file"):
        load_splits(DataArguments(dataset_name="nobody/nothing"))
