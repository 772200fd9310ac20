"""Splits: training rows into training, validation and test, seeded, with the label shares kept; and smaller samples."""

import logging

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.row_checks import source_of
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

Frames = dict[str, pd.DataFrame]


def undersample(frames: Frames, names: list[str], seed: int) -> Frames:
    """Cut every label of the training rows to as many rows as the rarest has, drawn by pandas' own sampling."""
    train = frames["train"]
    by_label = [rows for name in names if len(rows := train[train["label"] == name])]
    size = min(map(len, by_label))
    logger.info("undersampled to %d texts of each label", size)
    drawn = [rows if len(rows) == size else rows.sample(size, random_state=seed) for rows in by_label]
    return {**frames, "train": pd.concat(drawn)}


def draw_samples(frames: Frames, args: DataArguments) -> Frames:
    """Cut each split to its limit (max_train_samples, ...), drawn at random."""
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_predict_samples}
    return {
        split: frame
        if limits[split] is None or limits[split] >= len(frame)
        else frame.sample(limits[split], random_state=args.split_seed)
        for split, frame in frames.items()
    }


def make_missing_splits(frames: Frames, args: DataArguments) -> Frames:
    """Split the splits that were not given off the training rows, by `split_method`.

    Each split keeps the file's order, except with `shuffled`.

    Raises:
        RecipeError: too few rows, or too few of a label or of groups.
    """
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
        from recipe.data.group_and_time_splits import split_groups

        made = split_groups(rows, missing, args.split_seed)
    else:
        made = split_rows(rows, missing, args.split_seed)
    for split, frame in made.items():
        if frame.empty:
            raise RecipeError(f"{source_of(rows)}: {len(rows)} rows are too few to split off a {split} set: add rows")
    return {**frames, **made}


def cut_in_order(rows: pd.DataFrame, fractions: dict[str, float]) -> Frames:
    """Cut training off first, then validation; the last split takes what rounding leaves."""
    end = int(len(rows) * (1 - sum(fractions.values())))
    made = {"train": rows[:end]}
    if "validation" in fractions:
        stop = end + int(len(rows) * fractions["validation"]) if "test" in fractions else len(rows)
        made["validation"], end = rows[end:stop], stop
    if "test" in fractions:
        made["test"] = rows[end:]
    return made


def split_rows(rows: pd.DataFrame, fractions: dict[str, float], seed: int) -> Frames:
    """Split row by row, each label with its share as nearly as rows allow; each split in the file's order.

    A label so rare that its share is under half a row may be absent from the smaller part.
    """
    from sklearn.model_selection import train_test_split

    counts = rows["label"].value_counts()
    if counts.min() < len(fractions) + 1:
        raise RecipeError(
            f"{source_of(rows)}: label {counts.idxmin()!r} has too few rows to split ({counts.min()}): it needs at least"
            f" {len(fractions) + 1}; add rows, drop the label, or give --validation_file and --test_file"
        )
    sizes = {split: int(len(rows) * fractions[split]) for split in ("test", "validation") if split in fractions}
    made = {}
    for split, size in sizes.items():
        size = min(
            max(size, len(counts)), len(rows) - len(counts)
        )  # scikit-learn wants room for each label on each side
        try:
            rows, off = train_test_split(rows, test_size=size, stratify=rows["label"], random_state=seed)
        except ValueError as error:
            raise RecipeError(
                f"{source_of(rows)}: {len(rows)} rows of {len(counts)} labels are too few to split by these fractions:"
                " add rows, lower the fractions, or give --validation_file and --test_file"
            ) from error
        rows, made[split] = rows.sort_index(), off.sort_index()
    return {"train": rows, **made}
