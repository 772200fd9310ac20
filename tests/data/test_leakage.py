import pandas as pd
import pytest
from conftest import make_texts
from data_helpers import SPLITS, all_rows, load_frames, write

from recipe.arguments import DataArguments
from recipe.data.dataset import load_splits
from recipe.data.group_and_time_splits import join_groups
from recipe.errors import RecipeError


def conflicting(count=30):
    """`count` sports texts, of which the last five are there again as medicine."""
    sport = make_texts(count, ["sport"])
    other = make_texts(count, ["medicine"], seed=1)
    return pd.concat([sport, other, sport[-5:].assign(label="medicine")], ignore_index=True)


def test_conflicts_are_counted_and_shown(tmp_path, caplog):
    frame = conflicting()
    path = write(tmp_path, frame)
    splits = load_splits(DataArguments(train_file=path))
    (message,) = [record.getMessage() for record in caplog.records if "different labels" in record.getMessage()]
    head, *examples = message.splitlines()
    assert head == (
        f"{path}: texts that occur with different labels: 5; the first one counts (--drop_conflicts true drops them all), such as"
    )
    assert len(examples) == 3
    text = frame["text"][25]
    assert (
        examples[0] == f"  {text[:57] + '...' if len(text) > 60 else text!r}: 'sport' in row 27, 'medicine' in row 62"
    )
    assert splits.summary["conflicts"] == 5
    assert sum(splits.summary["texts"].values()) == 60
    kept = load_splits(DataArguments(train_file=path, remove_duplicates=False))
    assert "all of them are kept" in caplog.text
    assert sum(kept.summary["texts"].values()) == 65


def test_conflicts_can_be_dropped(tmp_path, caplog):
    frame = conflicting()
    args = DataArguments(train_file=write(tmp_path, frame), drop_conflicts=True)
    splits = load_splits(args)
    assert "their training rows are dropped" in caplog.text
    assert splits.summary["conflicts_dropped"] == {"train": 10}
    texts = all_rows(splits)["text"]
    assert set(texts) == set(frame["text"][:25]) | set(frame["text"][30:60])
    both = pd.concat([frame[:10], frame[:10].assign(label="medicine")])
    with pytest.raises(RecipeError, match="every text has several labels"):
        load_splits(DataArguments(train_file=write(tmp_path, both), drop_conflicts=True))


def test_conflicts_across_files_name_their_files(tmp_path, caplog):
    frame = make_texts(60, ["sport", "medicine"])
    other = frame[:4].assign(label=["medicine", "sport"] * 2)
    files = {"train_file": write(tmp_path, frame), "test_file": write(tmp_path, other, "test.csv")}
    splits = load_splits(DataArguments(**files))
    assert "texts that occur with different labels: 4; the first one counts, after those of a given test" in caplog.text
    assert f"'sport' in {files['train_file']} row 2, 'medicine' in {files['test_file']} row 2" in caplog.text
    assert len(splits["test"]) == 4
    assert not set(splits["train"]["text"]) & set(splits["test"]["text"])


def with_groups(count, groups, **kwargs):
    return make_texts(count, ["sport", "medicine"], **kwargs).assign(author=lambda f: [i % groups for i in f.index])


def test_given_files_keep_their_groups_and_training_gives_them_up(tmp_path, caplog):
    caplog.set_level("INFO", logger="recipe")
    frame = with_groups(120, 10)
    test = with_groups(6, 3, seed=1)
    validation = with_groups(8, 4, seed=2)
    files = {"train_file": write(tmp_path, frame), "test_file": write(tmp_path, test, "test.csv")}
    files["validation_file"] = write(tmp_path, validation, "validation.csv")
    splits = load_splits(DataArguments(**files, group_column="author"))
    assert splits["test"]["text"][:] == test["text"].tolist()
    assert splits["validation"]["text"][:] == validation["text"][validation["author"] == 3].tolist()
    assert splits["train"]["text"][:] == frame["text"][frame["author"] > 3].tolist()
    assert splits.summary["group_rows_dropped"] == {"train": 48, "validation": 6}
    assert "48 rows dropped from train, since their groups are also in a later split; 72 rows left" in caplog.text
    files["train_file"] = files["test_file"]
    with pytest.raises(RecipeError, match=r"test\.csv: every group of the train rows is also in a later split"):
        load_splits(DataArguments(**files, group_column="author", remove_duplicates=False))


def test_groups_are_one_by_value_in_every_format(tmp_path):
    frame = with_groups(120, 10)
    test = with_groups(6, 3, seed=1).assign(author=lambda f: f["author"].astype(float))
    test.to_parquet(tmp_path / "test.parquet")
    files = {"train_file": write(tmp_path, frame), "test_file": str(tmp_path / "test.parquet")}
    splits = load_frames(DataArguments(**files, group_column="author"))
    assert set(splits["test"]["group"]) == {"0", "1", "2"}
    assert splits.summary["group_rows_dropped"] == {"train": 36}


def test_a_missing_group_is_an_error(tmp_path):
    frame = with_groups(40, 10).astype({"author": object})
    frame.loc[3, "author"] = None
    with pytest.raises(
        RecipeError, match=r"a\.csv: row 5 has no group \(column 'author'\): fill in the group or drop the row"
    ):
        load_splits(DataArguments(train_file=write(tmp_path, frame), group_column="author"))
    with pytest.raises(RecipeError, match=r"no column 'writer' among .*--group_column"):
        load_splits(DataArguments(train_file=write(tmp_path, frame), group_column="writer"))


def test_copies_in_several_groups_do_not_leak(tmp_path):
    frame = with_groups(200, 20)
    copies = frame[:100].assign(author=lambda f: f["author"] ^ 1)
    path = write(tmp_path, pd.concat([frame, copies]))
    splits = load_frames(DataArguments(train_file=path, group_column="author"))
    parts = [splits[split] for split in SPLITS]
    assert sum(len(part) for part in parts) == 200
    for column in ("text", "group"):
        values = [set(part[column]) for part in parts]
        assert sum(map(len, values)) == len(set.union(*values))


def test_groups_that_share_a_text_are_one_group(tmp_path, caplog):
    """Authors 0 and 1 wrote the same text: without the copy, which is dropped, nothing else would join them."""
    frame = with_groups(200, 20)
    frame.loc[frame.index[frame["author"] == 1][0], "text"] = frame["text"][frame["author"] == 0].iloc[0]
    rows = join_groups(frame.rename(columns={"author": "group"}))
    assert rows.nunique() == 19
    assert set(rows[frame["author"] < 2]) == {0}
    caplog.set_level("INFO")
    splits = load_frames(DataArguments(train_file=write(tmp_path, frame), group_column="author"))
    assert "20 groups are 19, since some share a text; the largest has 20 rows" in caplog.text
    of_both = [split for split in SPLITS if {"0", "1"} & set(splits[split]["group"])]
    assert len(of_both) == 1
