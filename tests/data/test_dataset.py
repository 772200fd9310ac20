import gzip
import json

import datasets
import pandas as pd
import pytest
import yaml
from conftest import make_texts
from data_helpers import all_rows, texts_of

from recipe.arguments import DataArguments
from recipe.config import parse_arguments, resolved_config
from recipe.data.dataset import (
    load_saved_splits,
    load_splits,
    load_texts_for_model,
    same_texts,
    save_splits,
    summary_table,
)
from recipe.data.readers import read_texts
from recipe.data.run_config import reading_of
from recipe.errors import RecipeError


def load(tmp_path, content, name="train.csv", **fields):
    path = tmp_path / name
    path.write_text(content)
    return load_splits(DataArguments(train_file=str(path), **fields))


def csv(labels, start=0):
    return "text,label\n" + "".join(f"text {i + start},{label}\n" for i, label in enumerate(labels))


def test_labels_have_one_order_whatever_the_files(tmp_path):
    for labels in (["b", "a", "c"], ["c", "b", "a"]):
        assert load(tmp_path, csv(labels * 20)).label_names == ["a", "b", "c"]
    assert load(tmp_path, csv([10, 9, 2] * 20)).label_names == ["2", "9", "10"]
    lines = "".join(f'{{"text": "t{i}", "label": {i % 2}}}\n' for i in range(40))
    splits = load(tmp_path, lines, "train.jsonl")
    assert splits.label_names == ["0", "1"]
    assert all(
        int(text[1:]) % 2 == label
        for text, label in zip(splits["train"]["text"], splits["train"]["label"], strict=True)
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
        (
            "a.csv",
            csv(["a", "b", "", "a"]),
            r"a\.csv: row 4 has no label \(column 'label'\): fill in the label or drop the row",
        ),
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


def test_a_test_label_unknown_to_training_is_refused(tmp_path):
    (tmp_path / "test.csv").write_text(csv(["a", "b", "c"], start=100))
    with pytest.raises(
        RecipeError, match=r"test\.csv: row 4 has a label that the training data lacks, such as 'c'.*'a', 'b'"
    ):
        load(tmp_path, csv(["a", "b"] * 20), test_file=str(tmp_path / "test.csv"))


def test_empty_is_not_missing(tmp_path):
    splits = load(tmp_path, csv(["a", "b"] * 20) + '"",a\n')
    assert "" in set.union(*texts_of(splits))


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
    merged = all_rows(splits)
    assert len(merged) == 40  # the test split without labels was left aside
    assert all(
        splits.label_names[label] == by_text[text] for text, label in zip(merged["text"], merged["label"], strict=True)
    )


def test_files_replace_a_hub_datasets_splits(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    make_texts(60, ["sport", "medicine"]).to_csv(folder / "train.csv", index=False)
    make_texts(10, ["sport", "medicine"], seed=2).to_csv(tmp_path / "mine.csv", index=False)
    splits = load_splits(DataArguments(dataset_name=str(folder), test_file=str(tmp_path / "mine.csv")))
    assert splits["test"]["text"][:] == pd.read_csv(tmp_path / "mine.csv")["text"].tolist()
    with pytest.raises(RecipeError, match="nowhere"):
        load_splits(DataArguments(dataset_name=str(folder), validation_file="nowhere.csv"))


def test_a_dataset_that_does_not_exist():
    with pytest.raises(RecipeError, match=r"dataset 'nobody/nothing' cannot be loaded.*--train_file"):
        load_splits(DataArguments(dataset_name="nobody/nothing"))


def test_several_files_and_globs_are_one_split(tmp_path):
    frame = make_texts(60, ["sport", "medicine"])
    frame[:20].to_csv(tmp_path / "one.csv", index=False)
    frame[20:40].to_json(tmp_path / "two.jsonl", orient="records", lines=True)
    for name, part in {"b": frame[50:], "a": frame[40:50]}.items():
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(part.to_csv(index=False).encode()))
    paths = [str(tmp_path / name) for name in ("one.csv", "two.jsonl", "*.csv.gz")]
    splits = load_splits(DataArguments(train_file=paths))
    assert set.union(*texts_of(splits)) == set(frame["text"])
    read = splits.summary["rows_read"]["train"]
    assert [path.removeprefix(f"{tmp_path}/") for path in read] == ["one.csv", "two.jsonl", "a.csv.gz", "b.csv.gz"]
    assert list(read.values()) == [20, 20, 10, 10]
    with pytest.raises(RecipeError, match=r"test_file '.*\.tsv' matches no file"):
        load_splits(DataArguments(train_file=paths, test_file=str(tmp_path / "*.tsv")))


def test_an_error_names_the_file_of_several(tmp_path):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text(csv(["a", "b"] * 20))
    bad.write_text(csv(["a", ""]))
    with pytest.raises(RecipeError, match=r"bad\.csv: row 3 has no label"):
        load_splits(DataArguments(train_file=[str(good), str(bad)]))
    bad.write_text(csv(["a", "a", "c"], start=100))
    with pytest.raises(RecipeError, match=r"bad\.csv: row 4 has a label that the training data lacks"):
        load_splits(DataArguments(train_file=str(good), test_file=[str(good), str(bad)]))


def test_files_are_lists_on_the_command_line_and_in_yaml(tmp_path):
    argv = ["--output_dir", "runs/none"]
    data = parse_arguments([*argv, "--train_file", "a.csv", "more/*.csv.gz", "--test_file", "t.csv"])[1]
    assert (data.train_file, data.test_file) == (["a.csv", "more/*.csv.gz"], ["t.csv"])
    for content, files in {"train_file: a.csv": ["a.csv"], "train_file: [a.csv, b.csv]": ["a.csv", "b.csv"]}.items():
        (tmp_path / "x.yaml").write_text(content)
        arguments = parse_arguments(["--config", str(tmp_path / "x.yaml"), *argv])
        assert arguments[1].train_file == files
        assert resolved_config(*arguments)["train_file"] == files
    assert DataArguments(train_file="a.csv").train_file == ["a.csv"]
    assert DataArguments(train_file=tmp_path / "a.csv").train_file == [str(tmp_path / "a.csv")]


def test_saved_datasets_are_data(tmp_path):
    frame = make_texts(40, ["sport", "medicine"])
    names = datasets.ClassLabel(names=["sport", "medicine"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    dataset = datasets.Dataset.from_pandas(frame, features=features, preserve_index=False)
    parts = datasets.DatasetDict({"train": dataset.select(range(30)), "test": dataset.select(range(30, 40))})
    parts.save_to_disk(tmp_path / "both")
    dataset.save_to_disk(tmp_path / "one")
    splits = load_splits(DataArguments(dataset_name=str(tmp_path / "both")))
    assert splits.label_names == ["sport", "medicine"]
    assert splits["test"]["text"][:] == frame["text"][30:].tolist()
    assert [splits.label_names[i] for i in splits["test"]["label"]] == frame["label"][30:].tolist()
    for fields in ({"dataset_name": str(tmp_path / "one")}, {"train_file": str(tmp_path / "one")}):
        splits = load_splits(DataArguments(**fields))
        assert splits.label_names == ["sport", "medicine"]
        assert sum(splits.summary["texts"].values()) == 40
    (tmp_path / "both" / "train" / "state.json").write_text("{")
    with pytest.raises(RecipeError, match=r"both' cannot be loaded"):
        load_splits(DataArguments(dataset_name=str(tmp_path / "both")))


def test_files_that_declare_other_names_fall_back_to_the_alphabet(tmp_path):
    for name, order in {"a": ["sport", "medicine"], "b": ["medicine", "sport"]}.items():
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=order)})
        frame = make_texts(20, ["sport", "medicine"], seed=ord(name))
        datasets.Dataset.from_pandas(frame, features=features).to_parquet(tmp_path / f"{name}.parquet")
    splits = load_splits(DataArguments(train_file=str(tmp_path / "*.parquet")))
    assert splits.label_names == ["medicine", "sport"]
    assert {splits.label_names[label] for text, label in zip(splits["train"]["text"], splits["train"]["label"], strict=True)
            if "goal" in text} == {"sport"}  # fmt: skip


def test_pairs_are_joined(tmp_path):
    content = "question,answer,label\n" + "".join(f"q{i},a{i},{'xy'[i % 2]}\n" for i in range(40))
    splits = load(tmp_path, content, text_pair_column="answer")
    assert {text.replace("q", "").replace("a", "") for text in splits["test"]["text"]} <= {
        f"{i}\n{i}" for i in range(40)
    }
    splits = load(tmp_path, content, text_pair_column="answer", text_pair_separator=" [\\n] ")
    assert splits["test"]["text"][0].startswith("q")
    assert " [\n] a" in splits["test"]["text"][0]
    # One question with two answers is two texts.
    again = "text,answer,label\n" + "".join(f"q,a{i},{'xy'[i % 2]}\n" for i in range(40))
    assert sum(load(tmp_path, again, text_pair_column="answer").summary["texts"].values()) == 40
    with pytest.raises(
        RecipeError,
        match=r"train\.csv: row 2 has no text \(column 'text'\): fill in the text or drop the row \(--drop_missing true does that\)",
    ):
        load(tmp_path, "text,answer,label\n,,x\nq,a,y\nq,,y\n", text_pair_column="answer")
    with pytest.raises(RecipeError, match=r"row 1 has a text that is no string"):
        load(tmp_path, '{"text": "a", "b": 1, "label": 1}', "a.jsonl", text_pair_column="b")
    with pytest.raises(RecipeError, match=r"no column 'c' among .*: name it with --text_column"):
        load(tmp_path, "text,answer,label\nq,,x\nq,a,y\n", text_pair_column="c")
    with pytest.raises(RecipeError, match="are both 'text'"):
        load(tmp_path, content, text_column="text", text_pair_column="text")


def test_pairs_to_classify(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "q", "answer": "a"}\n{"text": "q"}\n{"answer": "a"}\n')
    pair = {"text": None, "text_2": "answer"}
    assert list(read_texts(tmp_path / "in.jsonl", pair, separator=" | ")) == [(["q | a", "q | ", " | a"], {})]
    assert list(read_texts(tmp_path / "in.jsonl", {"text": None})) == [(["q", "q", ""], {"answer": ["a", None, "a"]})]
    assert reading_of(tmp_path) == {}
    fields = ["--train_file", "a", "--output_dir", "b", "--text_pair_column", "answer", "--text_pair_separator", "\\t"]
    (tmp_path / "run_config.yaml").write_text(yaml.safe_dump(resolved_config(*parse_arguments(fields))))
    assert reading_of(tmp_path) == {"text_pair_column": "answer", "text_pair_separator": "\t", "csv_quoting": "auto"}


def test_the_summary_counts_every_row(tmp_path):
    frame = make_texts(100, ["sport", "medicine"])
    train = pd.concat([frame[:90], frame[:5]])
    train.to_csv(tmp_path / "train.csv", index=False)
    frame[85:].to_csv(tmp_path / "test.csv", index=False)
    files = {"train_file": str(tmp_path / "train.csv"), "test_file": str(tmp_path / "test.csv")}
    splits = load_splits(DataArguments(**files, max_train_samples=50, undersample="train"))
    summary = splits.summary
    assert summary["rows_read"] == {"train": {files["train_file"]: 95}, "test": {files["test_file"]: 15}}
    assert summary["duplicates_removed"] == {"train": 10}
    assert summary["texts"] == {name: len(splits[name]) for name in ("train", "validation", "test")}
    assert summary["labels"]["test"] == frame["label"][85:].value_counts().to_dict()
    removed = sum(sum(summary[step].values()) for step in ("duplicates_removed", "undersampled", "over_the_limit"))
    assert 95 + 15 - removed == sum(summary["texts"].values())
    assert json.loads(json.dumps(summary)) == summary
    columns, _, *table = summary_table(summary).splitlines()
    assert columns == "texts from 'text', labels from 'label'"
    assert table[0].split() == ["texts", "medicine", "sport"]
    assert [line.split()[0] for line in table[1:]] == ["train", "validation", "test"]
    assert table[3].split() == ["test", "15", "8", "7"]


def test_the_table_of_many_labels_stays_narrow():
    labels = {f"label {i}": 1000 * (i + 1) for i in range(20)}
    columns = {"text_column": ["title", "body"], "label_column": "topic"}
    counts = {"texts": {"train": sum(labels.values())}, "labels": {"train": labels}}
    table = summary_table({**counts, "columns": columns})
    assert table.startswith("texts from 'title' and 'body', labels from 'topic'\n")
    assert table.splitlines()[3].split()[:2] == ["train", "210,000"]
    assert "20,000" in table
    assert "12 others" in table
    assert "78,000" in table  # 1,000 + ... + 12,000
    assert max(map(len, table.splitlines())) < 130


def test_saved_splits_read_back_the_same(tmp_path):
    splits = load(tmp_path, csv(["a", "b"] * 30))
    assert isinstance(splits, datasets.DatasetDict)
    save_splits(splits, tmp_path / "run")
    again = load_saved_splits(tmp_path / "run")
    assert same_texts(splits, again)
    assert again.label_names == ["a", "b"]
    assert again.summary == splits.summary
    assert sorted(path.name for path in (tmp_path / "run").rglob("*.*")) == [
        "data_summary.json", "test.parquet", "train.parquet", "validation.parquet"
    ]  # fmt: skip
    path = tmp_path / "run" / "splits" / "validation.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RecipeError, match=r"validation\.parquet: cannot be read"):
        load_saved_splits(tmp_path / "run")
    path.unlink()
    with pytest.raises(RecipeError, match=r"validation\.parquet: .*no such file"):
        load_saved_splits(tmp_path / "run")


@pytest.mark.parametrize("method", ["stratified", "shuffled"])
def test_each_text_names_its_file_and_row(tmp_path, method):
    """Read back by pandas: a header is row 1 of a CSV file, the first line of JSON lines is row 1."""
    frames = [make_texts(40, ["sport", "medicine"], seed) for seed in (0, 1)]
    frames[0].to_csv(tmp_path / "z.csv", index=False)
    frames[1].to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    first_rows = {str(tmp_path / "z.csv"): (frames[0], 2), str(tmp_path / "a.jsonl"): (frames[1], 1)}
    splits = load_splits(DataArguments(train_file=[*first_rows], split_method=method))
    save_splits(splits, tmp_path / "run")
    for split in load_saved_splits(tmp_path / "run").values():
        names = split.features["label"].names
        for text in split:
            frame, first = first_rows[text["source"]]
            assert frame.loc[text["row"] - first].to_dict() == {"text": text["text"], "label": names[text["label"]]}
    assert sum(map(len, splits.values())) == 80


def test_any_dataset_dict_can_be_saved(tmp_path):
    rows = datasets.Dataset.from_dict({"id": [1, 2, 3], "text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    part = rows.class_encode_column("label").select([2, 0])
    own = datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), part))
    save_splits(own, tmp_path)
    again = load_saved_splits(tmp_path)
    assert same_texts(own, again)
    assert (again["test"]["text"][:], again.label_names, again.summary) == (["c", "a"], ["x", "y"], {})


def test_same_texts_sees_every_change(tmp_path):
    splits = load(tmp_path, csv(["a", "b"] * 30))
    names = splits.label_names[::-1]
    train = splits["train"]
    assert same_texts(splits, dict(splits))
    for other in (
        train.shuffle(seed=0),
        train.select(range(9)),
        train.cast_column("label", datasets.ClassLabel(names=names)),
    ):
        assert not same_texts(splits, {**splits, "train": other})
    assert not same_texts(splits, {"train": train})


def test_texts_for_a_saved_model_are_read_as_in_its_training(tmp_path):
    path, other = tmp_path / "test.csv", tmp_path / "more.csv"
    path.write_text("text,answer,label\nq,a,spam\nr,b,HAM\n")
    other.write_text("text,answer,label\ns,c,Spam\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run_config.yaml").write_text(
        "text_pair_column: answer\ntext_pair_separator: ' | '\nnormalize_labels: true\n"
    )
    texts = load_texts_for_model([str(path), str(other)], "test_file", ["Spam", "Ham"], run)
    assert texts["text"][:] == ["q | a", "r | b", "s | c"]
    assert texts["label"][:] == [0, 1, 0]
    assert texts.features["label"].names == ["Spam", "Ham"]
    columns = {"text": None, "label": None, "text_2": "answer"}
    texts = load_texts_for_model([str(path)], "test_file", ["spam", "HAM"], tmp_path, columns)
    assert (texts["text"][:], texts["label"][:]) == (["q\na", "r\nb"], [0, 1])
    with pytest.raises(RecipeError, match=r"test\.csv: row 3 has a label that the model does not know, such as 'HAM'"):
        load_texts_for_model([str(path)], "test_file", ["spam", "Ham"], tmp_path)
    with pytest.raises(RecipeError, match=r"test_file '.*\*\.tsv' matches no file"):
        load_texts_for_model([str(tmp_path / "*.tsv")], "test_file", ["spam"], tmp_path)
    (run / "run_config.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"run_config\.yaml: cannot be read"):
        reading_of(run)
