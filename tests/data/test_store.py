"""The text store: positions, copies in spite of equal hashes, files that are removed."""

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, make_texts
from data_helpers import SPLITS, write

from recipe.arguments import DataArguments
from recipe.data.dataset import load_splits, same_texts
from recipe.data.readers import read_file
from recipe.data.store import TextStore
from recipe.errors import RecipeError


def store_of(*batches):
    store = TextStore()
    for batch in batches:
        store.add({"text": batch})
    return store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that temporary files go to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_texts_are_found_by_position():
    texts = ["a", "", "two\nlines", "🎉", "a", "é" * 1000]
    store = store_of(texts[:2], [], texts[2:5], texts[5:])
    assert store.take(range(6)) == texts
    order = [5, 0, 0, 3, 1, 4]
    assert store.take(order) == [texts[i] for i in order]
    assert store.take([]) == []
    assert store.first_copies().tolist() == [0, 1, 2, 3, 0, 5]


def test_cells_that_are_no_texts_stay_to_be_refused():
    store = TextStore(separator="|")
    cells = {"text": ["a", None, 7, "b"], "text_2": ["x", "y", "z", None], "label": ["1", None, ["x"], "1"]}
    left = store.add(cells)
    assert left == {"text": ["", None, 7, ""], "text_2": ["", "", "", None], "label": ["1", None, ["x"], "1"]}
    assert store.take(range(4)) == ["a|x", "|y", "|z", "b|"]


def test_texts_of_one_hash_stay_different_texts(tmp_path, monkeypatch):
    frame = make_texts(120, ["sport", "medicine"])
    frame = pd.concat([frame, frame[:20], frame[5:10].assign(label="other")])
    args = DataArguments(train_file=write(tmp_path, frame))
    splits = load_splits(args)
    monkeypatch.setattr("recipe.data.store.hash_texts", lambda texts: np.zeros(len(texts), dtype=np.uint64))
    assert store_of(["a", "b", "a"], ["c", "b"]).first_copies().tolist() == [0, 1, 0, 3, 1]
    again = load_splits(args)
    assert same_texts(again, splits)
    assert again.summary == splits.summary
    assert splits.summary["duplicates_removed"] == {"train": 25}
    assert splits.summary["conflicts"] == 5


def test_splits_are_memory_mapped(tmp_path, folder):
    splits = load_splits(DataArguments(train_file=write(tmp_path, make_texts(60, ["sport", "medicine"]))))
    paths = {Path(file["filename"]) for split in splits.values() for file in split.cache_files}
    assert {path.parent.parent for path in paths} == {folder}
    assert len(paths) == len(list(folder.iterdir())) == len(SPLITS)  # the store's own file is gone
    assert splits["train"].features == datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["medicine", "sport"]),
            "row": datasets.Value("int64"),
            "source": datasets.Value("string"),
        }
    )


def test_files_are_removed_with_their_datasets(tmp_path, folder):
    path = write(tmp_path, make_texts(60, ["sport", "medicine"]))
    splits = load_splits(DataArguments(train_file=path))
    test, texts = splits["test"], splits["test"]["text"][:]
    first = splits["train"].select(range(3))["text"][:]
    tokens = splits["validation"].map(lambda row: {"length": len(row["text"])})
    del splits
    gc.collect()
    assert test["text"][:] == texts
    assert len(first) == 3
    # What was made by `map` lies beside the texts that it was made of, and is still in use.
    kept = {Path(part.cache_files[0]["filename"]).parent for part in (test, tokens)}
    assert set(folder.iterdir()) == kept
    assert len(tokens.map(lambda row: {"double": 2 * row["length"]})) == len(tokens)
    del test
    gc.collect()
    assert [path.suffix for path in folder.rglob("*.*")] == [".arrow"] * 2


def test_files_are_removed_after_an_error(tmp_path, folder):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nx,a\n,b\n")
    with pytest.raises(RecipeError, match="row 3 has no text") as error:
        load_splits(DataArguments(train_file=str(path)))
    del error
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_files_are_removed_at_exit(tmp_path, folder):
    path = write(tmp_path, make_texts(60, ["sport", "medicine"]))
    code = f"""
import sys
from recipe import DataArguments, load_splits
splits = load_splits(DataArguments(train_file={path!r}))
tokens = splits["train"].map(lambda row: {{"length": len(row["text"])}})
sys.exit(len(splits))
"""
    environment = {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 3
    assert list(folder.glob("recipe-*")) == []


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_declared_order_of_labels_is_kept(tmp_path, form):
    names = ["sport", "unused", "medicine"]  # not in alphabetical order
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    dataset = datasets.Dataset.from_pandas(
        make_texts(60, ["sport", "medicine"]), features=features, preserve_index=False
    )
    path = tmp_path / ("saved" if form == "folder" else "a.parquet")
    dataset.save_to_disk(path) if form == "folder" else dataset.to_parquet(path)
    splits = load_splits(DataArguments(train_file=str(path)))
    assert splits.label_names == names
    known = dict(zip(dataset["text"], dataset["label"], strict=True))
    assert all(known[row["text"]] == row["label"] for split in splits.values() for row in split)


def test_a_column_that_comes_late_in_json_lines_is_not_taken_for_another(tmp_path):
    rows = [{"sms": "early", "label": "x"}] * 3000 + [{"text": "late", "label": "x"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_file(path).frame["text"].tolist() == ["early"] * 3000 + [None]
    store = store_of(["of another file"])
    table = read_file(path, {"text": "sms"}, store=store)
    assert table.frame["text"].tolist() == [""] * 3000 + [None]
    assert store.take(table.frame.index[-2:]) == ["early", ""]
    with pytest.raises(RecipeError, match="row 3001 has no text"):
        load_splits(DataArguments(train_file=str(path)))
