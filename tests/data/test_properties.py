"""Properties of any texts, labels, groups, times and fractions: no row lost, none in two splits, stable label ids."""

import gzip
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from data_helpers import SPLITS, load_frames, split_frame_by_groups
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipe.arguments import DataArguments
from recipe.data.files import FileFormat
from recipe.data.readers import read_file
from recipe.data.rows import canonical_name
from recipe.errors import RecipeError

# What data may be refused for, by a message that says so; any other error is a failure.
LAWFUL = ("too few", "single label", "(regression)", "every text", "every group")
LAWFUL += ("several labels in one", "often stands for none")

FEW = settings(max_examples=20, deadline=None, derandomize=True, database=None)

# Any Unicode that UTF-8 holds; not every format distinguishes a file's own ends of line from a text's.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30)
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
label_sets = st.lists(names, min_size=2, max_size=4, unique_by=canonical_name)
# Of validation and test: their sum, and how it is shared.
fractions = st.tuples(st.floats(0.05, 0.9), st.floats(0.1, 0.9)).map(lambda x: (x[0] * x[1], x[0] * (1 - x[1])))


@st.composite
def tables(draw, **columns):
    """Rows of (text, label), every label on several; texts may be copies of each other."""
    labels = draw(label_sets)
    rows = draw(st.lists(texts, min_size=12, max_size=40))
    rows += draw(st.lists(st.sampled_from(rows), max_size=15))
    rows = [row.strip() for row in rows]
    frame = pd.DataFrame({"text": rows, "label": [labels[i % len(labels)] for i in range(len(rows))]}, dtype=object)
    for name, values in columns.items():
        frame[name] = draw(st.lists(values, min_size=len(rows), max_size=len(rows)))
    return frame


def load(frame, **fields):
    """The splits of a frame, by way of a JSON-lines file, which holds any string; None where they cannot be made."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        spaced = frame.assign(text=" " + frame["text"] + "\t")  # at whose ends white space does not count
        path.write_text("".join(json.dumps(row) + "\n" for row in spaced.to_dict("records")))
        try:
            return load_frames(DataArguments(train_file=str(path), **fields))
        except RecipeError as error:
            if not any(reason in str(error) for reason in LAWFUL):
                raise
            return None


def parts_of(splits):
    return [splits[split] for split in SPLITS]


def check_rows_are_kept(frame, splits):
    """Rows out are rows in but for those that the summary names, each in its file's order with its own label."""
    parts, summary = parts_of(splits), splits.summary
    removed = sum(
        sum(summary[step].values()) for step in ("duplicates_removed", "group_rows_dropped", "conflicts_dropped")
    )
    assert sum(map(len, parts)) == len(frame) - removed == sum(summary["texts"].values())
    assert len(pd.concat(parts)["row"].unique()) == len(frame) - removed
    for part in parts:
        assert part["row"].is_monotonic_increasing
        for row, text, label in part[["row", "text", "label"]].itertuples(index=False):
            assert (text, label) == (
                frame["text"][row - 1],
                canonical_name(frame["label"][row - 1]),
            )


def check_disjoint(splits, column):
    values = [set(part[column]) for part in parts_of(splits)]
    assert sum(map(len, values)) == len(set.union(*values))


@FEW
@given(tables(), fractions, st.sampled_from(["stratified", "shuffled"]), st.integers(0, 2**32 - 1))
def test_no_row_is_lost_and_no_text_leaks(frame, shares, method, seed):
    fields = {"validation_fraction": shares[0], "test_fraction": shares[1], "split_method": method, "split_seed": seed}
    splits = load(frame, **fields)
    assume(splits is not None)
    if method == "stratified":
        check_rows_are_kept(frame, splits)
    check_disjoint(splits, "text")
    assert set(pd.concat(parts_of(splits))["text"]) == set(frame["text"])


@FEW
@given(tables(group=st.integers(0, 9)), fractions, st.booleans())
def test_no_group_is_in_two_splits(frame, shares, remove_duplicates):
    fields = {"validation_fraction": shares[0], "test_fraction": shares[1], "remove_duplicates": remove_duplicates}
    splits = load(frame, group_column="group", **fields)
    assume(splits is not None)
    check_rows_are_kept(frame, splits)
    check_disjoint(splits, "group")
    if remove_duplicates:
        check_disjoint(splits, "text")


@FEW
@given(tables(when=st.floats(-1e9, 1e9) | st.integers(-5, 5)), fractions)
def test_no_time_of_training_is_after_one_of_the_test(frame, shares):
    fields = {"validation_fraction": shares[0], "test_fraction": shares[1]}
    splits = load(frame, split_method="time", time_column="when", **fields)
    assume(splits is not None)
    check_rows_are_kept(frame, splits)
    check_disjoint(splits, "text")
    times = [[frame["when"][row - 1] for row in part["row"]] for part in parts_of(splits)]
    assert max(times[0]) <= min(times[1]) <= max(times[1]) <= min(times[2])
    earliest = frame.groupby("text")["when"].min().to_dict()
    assert all(frame["when"][row - 1] == earliest[text] for part in parts_of(splits)
               for row, text in zip(part["row"], part["text"], strict=True))  # fmt: skip


@FEW
@given(tables(group=st.integers(0, 30)), st.data())
def test_given_files_are_kept_apart_too(frame, data):
    """Rows cut into three files at random: the test stays whole, and nothing of it stands in the others."""
    cuts = sorted(data.draw(st.lists(st.integers(1, len(frame) - 1), min_size=2, max_size=2, unique=True)))
    files = {"train_file": frame[: cuts[0]], "validation_file": frame[cuts[0] : cuts[1]], "test_file": frame[cuts[1] :]}
    known = set(files["train_file"]["label"].map(canonical_name))
    assume(set(frame["label"].map(canonical_name)) == known)
    with TemporaryDirectory() as folder:
        for name, part in files.items():
            lines = [json.dumps(row) + "\n" for row in part.to_dict("records")]
            Path(folder, f"{name}.jsonl").write_text("".join(lines))
        paths = {name: str(Path(folder, f"{name}.jsonl")) for name in files}
        try:
            splits = load_frames(DataArguments(**paths, group_column="group"))
        except RecipeError as error:
            if not any(reason in str(error) for reason in LAWFUL):
                raise
            return
    assert splits["test"]["text"].tolist() == files["test_file"]["text"].tolist()
    check_disjoint(splits, "group")
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        parts = parts_of(splits)
        assert not set(parts[earlier]["text"]) & set(parts[later]["text"])


@FEW
@given(tables(), st.randoms(use_true_random=False))
def test_ids_do_not_follow_the_order_of_the_rows(frame, random):
    splits = load(frame)
    order = list(frame.index)
    random.shuffle(order)
    again = load(frame.loc[order].reset_index(drop=True))
    assume(splits is not None and again is not None)
    assert splits.summary["labels"]["train"].keys() == again.summary["labels"]["train"].keys()
    assert sorted(splits.summary["labels"]["train"]) == sorted(set(frame["label"].map(canonical_name)))


@FEW
@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from("abc")), min_size=1, max_size=12), fractions)
def test_groups_of_any_sizes_fill_every_split(groups, shares):
    rows = pd.DataFrame(
        [
            {"group": str(i), "label": label, "source": "a.csv"}
            for i, (size, label) in enumerate(groups)
            for _ in range(size)
        ]
    )
    wanted = dict(zip(("validation", "test"), shares, strict=True))
    if len(groups) < 3:
        with pytest.raises(RecipeError, match="groups are too few for 3 splits"):
            split_frame_by_groups(rows, wanted, 0)
        return
    made = split_frame_by_groups(rows, wanted, 0)
    assert all(len(part) for part in made.values())
    assert sorted(pd.concat(made.values()).index) == list(rows.index)
    assert sum((Counter(set(part["group"])) for part in made.values()), Counter()) == Counter(set(rows["group"]))


@FEW
@given(st.lists(st.tuples(texts.filter(bool), names), min_size=1, max_size=8))
def test_every_format_gives_the_same_rows(rows):
    """Written by pandas, pyarrow and datasets."""
    frame = pd.DataFrame(rows, columns=["text", "label"])
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        frame.to_csv(folder / "a.csv", index=False)
        frame.to_csv(folder / "b.csv.gz", index=False)
        frame.to_csv(folder / "c.tsv.gz", index=False, sep="\t")
        frame.to_parquet(folder / "d.parquet")
        lines = "".join(json.dumps(row) + "\n" for row in frame.to_dict("records"))
        (folder / "e.jsonl").write_text(lines)
        (folder / "f.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        datasets.Dataset.from_pandas(frame).save_to_disk(folder / "g")
        for path in sorted(folder.iterdir()):
            found, *_ = read_file(path, file_format=FileFormat(csv_quoting="minimal"))
            assert found[["text", "label"]].values.tolist() == [list(row) for row in rows], path.name


@FEW
@given(st.data())
def test_a_label_has_one_name_in_every_format(data):
    """Of a column of one type: what CSV holds as words, JSON as a value, Parquet with a type."""
    kind = data.draw(st.sampled_from([st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e17, 1e17), names]))
    labels = data.draw(st.lists(kind, min_size=1, max_size=8))
    frame = pd.DataFrame({"text": "x", "label": labels})
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        frame.to_csv(folder / "a.csv", index=False)
        (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
        pa.parquet.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), folder / "c.parquet")
        found = [read_file(path)[0]["label"].map(canonical_name).tolist() for path in sorted(folder.iterdir())]
    assert found[0] == found[1] == found[2]
