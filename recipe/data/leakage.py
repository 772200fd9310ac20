"""What would leak from training into validation or test: copies of a text, texts of one group; and texts of two labels."""

import logging

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.row_checks import source_of
from recipe.errors import RecipeError, shorten

logger = logging.getLogger(__name__)

LATER_FIRST = ("test", "validation", "train")  # a given test stays whole, training gives up the most
SHOWN = 3  # conflicts that the log shows


def held_by_later_splits(frames: dict[str, pd.DataFrame], column: str) -> dict[str, pd.Series]:
    """bool of each row: whether validation holds what the test holds, or training what either of them holds."""
    held, seen = {}, set()
    for split in LATER_FIRST:
        if split in frames:
            held[split] = frames[split][column].isin(seen)
            seen.update(frames[split][column])
    return held


def remove_duplicates(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Keeps exact copies of a text from standing in two splits: they would leak from training into the test.

    A given test file stays whole; validation gives up what the test holds, training what either holds. Within the
    training rows the first copy stays (the earliest, where rows have a `time`), so that splits made from them share
    nothing.
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
                f"{source}: every text also stands in another split: pass --remove_duplicates false to allow it"
            )
    return kept


def give_up_groups(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Keeps a group from standing in two splits: validation gives up the test's groups, training those of both."""
    shared = held_by_later_splits(frames, "group")
    kept = {split: frame[~shared[split]] for split, frame in frames.items()}
    for split, rows in shared.items():
        if rows.any():
            logger.info(
                "%s: %d rows given up in %s, since their groups stand in a later split; %d rows left",
                source_of(frames[split]), rows.sum(), split, len(kept[split]),
            )  # fmt: skip
        if kept[split].empty:
            raise RecipeError(
                f"{source_of(frames[split])}: every group of the {split} rows also stands in a later split: give rows of"
                " other groups, or drop --group_column"
            )
    return kept


def find_conflicts(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows, of all splits (column `split`), whose very text also stands there with another label."""
    rows = pd.concat([frame.assign(split=split) for split, frame in frames.items()], ignore_index=True)
    repeated = rows[rows["text"].duplicated(keep=False)]
    return repeated[repeated.groupby("text")["label"].transform("nunique") > 1]


def report_conflicts(conflicts: pd.DataFrame, args: DataArguments) -> None:
    """One warning: how many texts there are, what becomes of them, and the first few with their labels and rows."""
    if conflicts.empty:
        return
    fate = "all of them are kept"
    if args.remove_duplicates:
        fate = f"the {'earliest' if args.split_method == 'time' else 'first'} one counts"
        if conflicts["split"].nunique() > 1:
            fate += ", after those of a given test or validation file"
    mend = (
        "their training rows are dropped" if args.drop_conflicts else f"{fate} (--drop_conflicts true drops them all)"
    )
    several_files = conflicts["source"].nunique() > 1
    examples = []
    for text, rows in conflicts.groupby("text", sort=False):
        places = [
            f"{row.label!r} in {f'{row.source} ' if several_files else ''}row {row.row}"
            for row in rows.drop_duplicates("label").itertuples()
        ]
        examples.append(f"  {shorten(text, 60)!r}: {', '.join(places)}")
        if len(examples) == SHOWN:
            break
    logger.warning(
        "%s: texts that stand there with different labels: %d; %s, such as\n%s",
        source_of(conflicts),
        conflicts["text"].nunique(),
        mend,
        "\n".join(examples),
    )


def drop_conflicts(frames: dict[str, pd.DataFrame], conflicts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Training rows alone: given validation and test files are measured as they are."""
    train = frames["train"]
    kept = train[~train["text"].isin(conflicts["text"])]
    if kept.empty:
        raise RecipeError(
            f"{source_of(train)}: every text has several labels: drop_conflicts leaves no row to train on"
        )
    return {**frames, "train": kept}
