"""Rows into training, validation and test: without leaks, with the label shares kept, seeded."""

import logging

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from recipe.arguments import DataArguments
from recipe.data.row_checks import source_of
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)


def undersample(frame: pd.DataFrame, names: list[str], seed: int) -> pd.DataFrame:
    """Cuts every label to as many rows as the rarest has, drawn by pandas' own sampling."""
    by_label = [frame[frame["label"] == name] for name in names]
    by_label = [rows for rows in by_label if len(rows)]
    size = min(len(rows) for rows in by_label)
    parts = [rows if len(rows) == size else rows.sample(size, random_state=seed) for rows in by_label]
    logger.info("undersampled to %d texts of each label", size)
    return pd.concat(parts)


def make_missing_splits(frames: dict[str, pd.DataFrame], args: DataArguments) -> dict[str, pd.DataFrame]:
    """Splits off the training rows what is not given, by `split_method`; each split in the file's order, save shuffled."""
    fractions = {"validation": args.validation_fraction, "test": args.test_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in frames}
    rows = frames["train"]
    if not missing:
        return frames
    if args.split_method == "shuffled":
        made = cut_in_order(rows.sample(frac=1, random_state=args.split_seed), missing)
    elif args.split_method == "time":
        made = cut_in_order(rows.sort_values("time", kind="stable"), missing)
        made = {split: part.sort_index() for split, part in made.items()}
    elif args.group_column:
        made = split_groups(rows, missing, args.split_seed)
    else:
        made = split_rows(rows, missing, args.split_seed)
    for split, frame in made.items():
        if frame.empty:
            raise RecipeError(f"{source_of(rows)}: {len(rows)} rows are too few to split off a {split} set: add rows")
    return {**frames, **made}


def cut_in_order(rows: pd.DataFrame, fractions: dict[str, float]) -> dict[str, pd.DataFrame]:
    """Training first, then validation, and the last one takes what rounding leaves."""
    end = int(len(rows) * (1 - sum(fractions.values())))
    made = {"train": rows[:end]}
    if "validation" in fractions:
        stop = end + int(len(rows) * fractions["validation"]) if "test" in fractions else len(rows)
        made["validation"], end = rows[end:stop], stop
    if "test" in fractions:
        made["test"] = rows[end:]
    return made


def split_rows(rows: pd.DataFrame, fractions: dict[str, float], seed: int) -> dict[str, pd.DataFrame]:
    """Each label with its share, row by row."""
    check_enough_rows(rows, len(fractions))
    sizes = {split: int(len(rows) * fractions[split]) for split in ("test", "validation") if split in fractions}
    made = {}
    for split, size in sizes.items():
        rows, made[split] = split_stratified(rows, size, seed)
    return {"train": rows, **made}


def check_enough_rows(rows: pd.DataFrame, splits_to_make: int) -> None:
    counts = rows["label"].value_counts()
    if counts.min() < splits_to_make + 1:
        raise RecipeError(
            f"{source_of(rows)}: label {counts.idxmin()!r} has too few rows to split ({counts.min()}): it needs at least"
            f" {splits_to_make + 1}; add rows, drop the label, or give --validation_file and --test_file"
        )


def split_stratified(rows: pd.DataFrame, size: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(what stays, `size` rows split off), in the file's order, each label with its share as nearly as rows allow.

    A label so rare that its share is under half a row may have none in the smaller part.
    """
    labels = rows["label"].nunique()
    size = min(max(size, labels), len(rows) - labels)  # scikit-learn wants room for each label on either side
    try:
        stay, off = train_test_split(rows, test_size=size, stratify=rows["label"], random_state=seed)
    except ValueError as error:
        raise RecipeError(
            f"{source_of(rows)}: {len(rows)} rows of {labels} labels are too few to split by these fractions:"
            " add rows, lower the fractions, or give --validation_file and --test_file"
        ) from error
    return stay.sort_index(), off.sort_index()


def split_groups(rows: pd.DataFrame, fractions: dict[str, float], seed: int) -> dict[str, pd.DataFrame]:
    """Each group whole in one split, sizes and label shares as nearly as groups allow.

    The greedy rule of scikit-learn's StratifiedGroupKFold, whose folds are all of one size, for splits of any fractions:
    the largest groups first, each to the split whose label counts it brings nearest to what they should be
    (by chi-square, sum (n - wanted)^2 / wanted). Groups of one size come in seeded order. No split stays empty.

    Raises:
        RecipeError: fewer groups than splits.
    """
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    table = rows.groupby(["group", "label"]).size().unstack(fill_value=0)
    if len(table) < len(shares):
        raise RecipeError(
            f"{source_of(rows)}: {len(table)} groups are too few for {len(shares)} splits ({', '.join(shares)}):"
            " add groups, give --validation_file and --test_file, or drop --group_column"
        )
    counts = table.to_numpy()
    wanted = np.outer(list(shares.values()), counts.sum(axis=0))
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled, chosen = np.zeros_like(wanted), np.empty(len(counts), dtype=int)
    for group in order:
        distance = ((filled + counts[group] - wanted) ** 2 - (filled - wanted) ** 2) / wanted
        chosen[group] = distance.sum(axis=1).argmin()
        filled[chosen[group]] += counts[group]
    for split in range(len(shares)):
        sizes = np.bincount(chosen, minlength=len(shares))
        if not sizes[split]:  # the smallest group of a split that keeps another one
            chosen[next(group for group in reversed(order) if sizes[chosen[group]] > 1)] = split
    split_of = dict(zip(table.index, chosen, strict=True))
    parts = rows["group"].map(split_of)
    return {split: rows[parts == i].sort_index() for i, split in enumerate(shares)}
