"""Rows into training, validation and test: without leaks, with the label shares kept, seeded."""

import logging

import pandas as pd
from sklearn.model_selection import train_test_split

from recipe.arguments import DataArguments
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)


def source_of(frame: pd.DataFrame) -> str:
    return frame.attrs.get("source", "the data")


def remove_duplicates(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Keeps exact copies of a text from standing in two splits: they would leak from training into the test.

    A given test file stays whole; validation gives up what the test holds, training what either holds. Within the
    training rows the first copy stays, so that splits made from them share nothing.
    """
    kept, seen = dict(frames), set()
    for split in ("test", "validation", "train"):
        if split not in frames:
            continue
        frame = frames[split]
        copies = frame["text"].isin(seen)
        if split == "train":
            copies |= frame["text"].duplicated()
            conflicts = int((frame.groupby("text")["label"].nunique() > 1).sum())
            if conflicts:
                logger.warning(
                    "%s: %d texts stand there with different labels; the first one counts", source_of(frame), conflicts
                )
        if copies.any():
            logger.info(
                "%s: %d exact duplicates removed, %d texts left", source_of(frame), copies.sum(), (~copies).sum()
            )
        kept[split] = frame[~copies]
        seen.update(frame["text"])
        if kept[split].empty:
            raise RecipeError(
                f"{source_of(frame)}: every text also stands in another split: pass --remove_duplicates false to allow it"
            )
    return kept


def undersample(frame: pd.DataFrame, names: list[str], seed: int) -> pd.DataFrame:
    """Cuts every label to as many rows as the rarest has, drawn by pandas' own sampling."""
    by_label = [frame[frame["label"] == name] for name in names]
    by_label = [rows for rows in by_label if len(rows)]
    size = min(len(rows) for rows in by_label)
    parts = [rows if len(rows) == size else rows.sample(size, random_state=seed) for rows in by_label]
    logger.info("undersampled to %d texts of each label", size)
    return pd.concat(parts)


def make_missing_splits(frames: dict[str, pd.DataFrame], args: DataArguments) -> dict[str, pd.DataFrame]:
    fractions = {"test": args.test_fraction, "validation": args.validation_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in frames}
    rows = frames["train"]
    sizes = {split: int(len(rows) * fraction) for split, fraction in missing.items()}
    if args.split_method == "shuffled" and missing:
        rows = rows.sample(frac=1, random_state=args.split_seed)
        # Training first, then validation, and the test takes what rounding leaves.
        end = int(len(rows) * (1 - sum(missing.values())))
        made = {"train": rows[:end]}
        if "validation" in missing:
            stop = end + sizes["validation"] if "test" in missing else len(rows)
            made["validation"], end = rows[end:stop], stop
        if "test" in missing:
            made["test"] = rows[end:]
    else:
        check_enough_rows(rows, len(missing))
        made = {}
        for split, size in sizes.items():
            rows, made[split] = split_stratified(rows, size, args.split_seed)
        made["train"] = rows
    for split, frame in made.items():
        if frame.empty:
            raise RecipeError(
                f"{source_of(frames['train'])}: {len(frames['train'])} rows are too few to split off a {split} set: add rows"
            )
    return {**frames, **made}


def check_enough_rows(rows: pd.DataFrame, splits_to_make: int) -> None:
    counts = rows["label"].value_counts()
    if splits_to_make and counts.min() < splits_to_make + 1:
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
    stay, off = stay.sort_index(), off.sort_index()
    stay.attrs = off.attrs = rows.attrs
    return stay, off
