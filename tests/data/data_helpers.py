"""Helpers of the tests of data."""

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.dataset import TextSplits, load_rows
from recipe.data.group_and_time_splits import split_groups

SPLITS = ("train", "validation", "test")


def write(tmp_path, frame, name="a.csv"):
    path = tmp_path / name
    frame.to_csv(path, index=False)
    return str(path)


def load_frames(args: DataArguments) -> TextSplits:
    """The splits as frames, before they lose `row`, `group`, `time` and their index; labels by name."""
    rows, _, summary, store = load_rows(args)
    rows = rows.assign(text=store.take(rows.index))
    return TextSplits({split: rows[rows["split"] == split] for split in SPLITS}, summary)


def all_rows(splits: TextSplits) -> pd.DataFrame:
    return pd.concat([splits[split].to_pandas() for split in SPLITS])


def texts_of(splits: TextSplits) -> list[set[str]]:
    return [set(splits[split]["text"]) for split in SPLITS]


def split_frame_by_groups(rows: pd.DataFrame, fractions: dict[str, float], seed: int) -> dict[str, pd.DataFrame]:
    splits = split_groups(rows, fractions, seed)
    assert set(splits) <= {"train", *fractions}
    return {split: rows[splits == split] for split in ("train", *fractions)}
