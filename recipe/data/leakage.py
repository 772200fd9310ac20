"""Leakage: copies of a text in two splits are removed, texts with several labels reported or dropped."""

import logging

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.row_checks import source_of
from recipe.errors import RecipeError, shorten

logger = logging.getLogger(__name__)

LATER_FIRST = ("test", "validation", "train")  # a given test stays complete, training gives up the most
SHOWN = 3  # conflicts that the log shows

Frames = dict[str, pd.DataFrame]


def held_by_later_splits(frames: Frames, column: str) -> dict[str, pd.Series]:
    """Return for each row (bool) whether the test holds the value of a validation row, or either that of a training row."""
    held, later = {}, set()
    for split in LATER_FIRST:
        if split in frames:
            held[split] = frames[split][column].isin(later)
            later.update(frames[split][column])
    return held


def remove_duplicates(frames: Frames) -> Frames:
    """Remove exact copies of a text that would leak from training into validation or test.

    A given test file stays complete; validation gives up what the test holds, training what either holds. Within the
    training rows the first copy stays (the earliest, where rows have a `time`), so that splits made from them share
    nothing.

    Raises:
        RecipeError: a split of which no text is left.
    """
    train, copies = frames["train"], held_by_later_splits(frames, "text")
    by_time = train.sort_values("time", kind="stable") if "time" in train else train
    copies["train"] |= by_time["text"].duplicated().reindex(train.index)
    kept = {split: frame[~copies[split]] for split, frame in frames.items()}
    for split, rows in copies.items():
        source = source_of(frames[split])
        if rows.any():
            logger.info("%s: %d exact duplicates removed, %d texts left", source, rows.sum(), len(kept[split]))
        if kept[split].empty:
            raise RecipeError(
                f"{source}: every text is also in another split: pass --remove_duplicates false to allow it"
            )
    return kept


def find_conflicts(frames: Frames) -> pd.DataFrame:
    """Return the rows, of all splits (column `split`), whose very text also occurs with another label."""
    rows = pd.concat([frame.assign(split=split) for split, frame in frames.items()], ignore_index=True)
    repeated = rows[rows["text"].duplicated(keep=False)]
    return repeated[repeated.groupby("text")["label"].transform("nunique") > 1]


def report_conflicts(conflicts: pd.DataFrame, args: DataArguments) -> None:
    """Log one warning: how many texts have several labels, what becomes of them, and the first few with their rows."""
    if conflicts.empty:
        return
    fate = "all of them are kept"
    if args.remove_duplicates:
        fate = f"the {'earliest' if args.split_method == 'time' else 'first'} one counts"
        if conflicts["split"].nunique() > 1:
            fate += ", after those of a given test or validation file"
    fate += " (--drop_conflicts true drops them all)"
    if args.drop_conflicts:
        fate = "their training rows are dropped"
    show_source = conflicts["source"].nunique() > 1
    examples = []
    for text, rows in conflicts[conflicts["text"].isin(conflicts["text"].unique()[:SHOWN])].groupby("text", sort=False):
        places = [
            f"{row.label!r} in {f'{row.source} ' if show_source else ''}row {row.row}"
            for row in rows.drop_duplicates("label").itertuples()
        ]
        examples.append(f"  {shorten(text, 60)!r}: {', '.join(places)}")
    count = conflicts["text"].nunique()
    message = "%s: texts that occur with different labels: %d; %s, such as\n%s"
    logger.warning(message, source_of(conflicts), count, fate, "\n".join(examples))


def drop_conflicts(frames: Frames, conflicts: pd.DataFrame) -> Frames:
    """Drop the conflicting training rows; given validation and test files are measured as they are."""
    train = frames["train"]
    kept = train[~train["text"].isin(conflicts["text"])]
    if kept.empty:
        raise RecipeError(
            f"{source_of(train)}: every text has several labels: drop_conflicts leaves no row to train on"
        )
    return {**frames, "train": kept}
