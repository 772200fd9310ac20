"""Leakage: copies and groups are kept out of two splits, texts with several labels reported or dropped."""

import logging

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.readers import SPLITS
from recipe.data.rows import source_of
from recipe.data.store import TextStore
from recipe.errors import RecipeError, shorten

logger = logging.getLogger(__name__)

SHOWN = 3  # conflicts that the log shows


def in_later_split(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return for each row (bool) whether a later split holds its value too: the test stays complete, training loses most."""
    order = rows["split"].map({split: i for i, split in enumerate(SPLITS)})
    return order < order.groupby(rows[column]).transform("max")


def drop_rows(rows: pd.DataFrame, gone: pd.Series, report: str, refusal: str) -> pd.DataFrame:
    """Return the rows that are not gone; report how many rows each split loses, and refuse a split that would be empty."""
    for split in reversed(SPLITS):
        if count := (of_split := gone[rows["split"] == split]).sum():
            source, left = source_of(rows.loc[of_split.index]), len(of_split) - count
            if not left:
                raise RecipeError(f"{source}: {refusal.format(split=split)}")
            logger.info("%s: %s", source, report.format(split=split, count=count, left=left))
    return rows[~gone]


def drop_missing(rows: pd.DataFrame, missing: pd.Series) -> pd.DataFrame:
    """Drop the rows that lack a text, a label or a group."""
    refusal = "no row has a text and a label"
    return drop_rows(rows, missing, "{count} rows without text or label dropped, {left} rows left", refusal)


def remove_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    """Remove exact copies of a text that would leak from training into validation or test.

    Within the training rows the first copy stays (the earliest, where rows have a `time`), so that splits made of them
    share nothing.
    """
    train = rows[rows["split"] == "train"]
    by_time = train.sort_values("time", kind="stable") if "time" in rows else train
    repeated = by_time["text"].duplicated()
    if repeated.mean() > 0.5:
        logger.warning("%s: most texts repeat an earlier one: is it the right --text_column?", source_of(train))
    copies = in_later_split(rows, "text") | repeated.reindex(rows.index, fill_value=False)
    refusal = "every text is also in another split: pass --remove_duplicates false to allow it"
    return drop_rows(rows, copies, "{count} exact duplicates removed, {left} texts left", refusal)


def drop_group_overlaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop validation rows whose group the test holds, and training rows whose group either of them holds."""
    report = "{count} rows dropped from {split}, since their groups are also in a later split; {left} rows left"
    fix = "give rows of other groups, or drop --group_column"
    refusal = "every group of the {split} rows is also in a later split: " + fix
    return drop_rows(rows, in_later_split(rows, "group"), report, refusal)


def find_conflicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, of all splits, whose very text also occurs with another label."""
    repeated = rows[rows["text"].duplicated(keep=False)]
    return repeated[repeated.groupby("text")["label"].transform("nunique") > 1]


def report_conflicts(conflicts: pd.DataFrame, args: DataArguments, store: TextStore) -> None:
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
    one_source = conflicts["source"].nunique() == 1
    firsts, examples = conflicts["text"].unique(), []
    for first, text in zip(firsts, store.take(firsts[:SHOWN]), strict=False):
        rows = conflicts[conflicts["text"] == first].drop_duplicates("label")
        places = [f"{x.label!r} in {'' if one_source else f'{x.source} '}row {x.row}" for x in rows.itertuples()]
        examples.append(f"  {shorten(text, 60)!r}: {', '.join(places)}")
    message = "%s: texts that occur with different labels: %d; %s, such as\n%s"
    logger.warning(message, source_of(conflicts), len(firsts), fate, "\n".join(examples))


def drop_conflicts(rows: pd.DataFrame, conflicts: pd.DataFrame) -> pd.DataFrame:
    """Drop the conflicting training rows; given validation and test files are measured as they are."""
    dropped = (rows["split"] == "train") & rows["text"].isin(conflicts["text"])
    refusal = "every text has several labels: drop_conflicts leaves no row to train on"
    return drop_rows(rows, dropped, "{count} rows of texts with several labels dropped, {left} rows left", refusal)
