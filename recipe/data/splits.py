"""Splits: training rows into training, validation and test, seeded, with the label shares kept; and smaller samples."""

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.rows import source_of
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

SHOWN = 8  # labels that a message names


def draw(rows: pd.DataFrame, size: int | None, seed: int) -> pd.DataFrame:
    """Return so many rows, drawn by pandas' own sampling, or all of them in their order."""
    return rows if size is None or size >= len(rows) else rows.sample(size, random_state=seed)


def undersample(rows: pd.DataFrame, names: list[str], seed: int) -> pd.DataFrame:
    """Cut every label of the training rows to as many rows as the rarest has."""
    is_train = rows["split"] == "train"
    of_label = dict(list(rows[is_train].groupby("label")))
    size = min(map(len, of_label.values()))
    logger.info("undersampled to %d texts of each label", size)
    return pd.concat([*(draw(of_label[name], size, seed) for name in names if name in of_label), rows[~is_train]])


def draw_samples(rows: pd.DataFrame, args: DataArguments) -> pd.DataFrame:
    """Cut each split to its limit (max_train_samples, ...)."""
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_predict_samples}
    return pd.concat([draw(part, limits[split], args.split_seed) for split, part in rows.groupby("split", sort=False)])


def make_missing_splits(rows: pd.DataFrame, args: DataArguments) -> pd.DataFrame:
    """Split the splits that were not given off the training rows, by `split_method`; refuse too few rows.

    Each split keeps the file's order, except with `shuffled`.
    """
    missing = missing_splits(rows, args)
    if not missing:
        return rows
    is_train = rows["split"] == "train"
    train, given = rows[is_train], rows[~is_train]
    if args.split_method == "shuffled":
        train = train.sample(frac=1, random_state=args.split_seed)
        splits = cut_in_order(train, missing)
    elif args.split_method == "time":
        splits = cut_in_order(train.sort_values("time", kind="stable"), missing)
    elif args.group_column:
        from recipe.data.group_and_time_splits import split_groups

        splits = split_groups(train, missing, args.split_seed)
    else:
        splits = split_rows(train, missing, args.split_seed, args.rare_labels)
    for split in ("train", *missing):
        if split not in splits.unique():
            raise RecipeError(f"{source_of(train)}: {len(train)} rows are too few to split off a {split} set: add rows")
    made = train.assign(split=splits)
    return pd.concat([made if args.split_method == "shuffled" else made.sort_index(), given])


def cut_in_order(rows: pd.DataFrame, fractions: dict[str, float]) -> pd.Series:
    """Return the split of each row: training comes first, then validation; the last takes what rounding leaves."""
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    sizes = [int(len(rows) * share) for share in shares.values()]
    sizes[-1] = len(rows) - sum(sizes[:-1])
    return pd.Series(np.repeat(np.array([*shares], dtype=object), sizes), index=rows.index, dtype=object)


def is_rare(labels: pd.Series, fractions: Mapping[str, float]) -> pd.Series:
    """Return which rows (bool) have a label of fewer rows than there are splits to make."""
    return labels.groupby(labels).transform("size") < len(fractions) + 1


def drop_rare_labels(rows: pd.DataFrame, args: DataArguments) -> pd.DataFrame:
    """Drop the training rows whose label is too rare to be in each split that is made of them."""
    train = rows[rows["split"] == "train"]
    rare = is_rare(train["label"], missing_splits(rows, args))
    if rare.all():
        raise RecipeError(f"{source_of(train)}: all labels are too rare to split: is it the right --label_column?")
    logger.info("%d rows of %d rare labels dropped", rare.sum(), train["label"][rare].nunique())
    return rows[~rows["label"].isin(train["label"][rare])]


def refuse_rare_labels(rows: pd.DataFrame, rare: pd.Series, needed: int) -> None:
    """Raise RecipeError for labels with too few rows to split, naming how many there are."""
    if not rare.any():
        return
    counts = rows["label"][rare].value_counts()
    shown = ", ".join(f"{name!r} ({count})" for name, count in counts[:SHOWN].items())
    few = f"{len(counts)} labels have too few rows to split, {shown}{', ...' if len(counts) > SHOWN else ''}: they need"
    if len(counts) == 1:
        few = f"label {counts.index[0]!r} has too few rows to split ({counts.iloc[0]}): it needs"
    few += f" at least {needed}"
    fix = "add rows, pass --rare_labels keep (in training) or drop, or give --validation_file and --test_file"
    if rows["label"].nunique() > len(rows) / 2:
        fix = "nearly each row has a label of its own: is it the right --label_column, and the right --delimiter?"
    raise RecipeError(f"{source_of(rows)}: {few}; {fix}")


def missing_splits(rows: pd.DataFrame, args: DataArguments) -> dict[str, float]:
    """Return the splits that are not given, and the share of the training rows that each gets."""
    fractions = {"validation": args.validation_fraction, "test": args.test_fraction}
    return {split: share for split, share in fractions.items() if split not in rows["split"].unique()}


def split_rows(rows: pd.DataFrame, fractions: dict[str, float], seed: int, rare_labels: str = "refuse") -> pd.Series:
    """Return the split of each row, drawn so that each label has its share as nearly as rows allow.

    A label so rare that its share is under half a row may be absent from the smaller part. With `rare_labels` "keep",
    all rows of a label that cannot be in each split stay in training.
    """
    from sklearn.model_selection import train_test_split

    splits = pd.Series("train", index=rows.index, dtype=object)
    rare = is_rare(rows["label"], fractions)
    refuse_rare_labels(rows, rare & (rare_labels != "keep"), len(fractions) + 1)
    counts = rows["label"][~rare].value_counts()
    labels = pd.Series(rows["label"].factorize(sort=True)[0], index=rows.index)[~rare]  # numbers sort faster than names
    for split in reversed(fractions):
        # scikit-learn needs a place for each label on each side
        size = min(max(int(len(rows) * fractions[split]), len(counts)), len(labels) - len(counts))
        try:
            labels, off = train_test_split(labels, test_size=size, stratify=labels, random_state=seed)
        except ValueError as error:
            few = f"{len(labels)} rows of {len(counts)} labels are too few to split by these fractions"
            fix = "add rows, lower the fractions, or give --validation_file and --test_file"
            raise RecipeError(f"{source_of(rows)}: {few}: {fix}") from error
        labels, splits[off.index] = labels.sort_index(), split
    return splits
