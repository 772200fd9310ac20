"""Row checks: rows that cannot be used are refused with their file and their numbers."""

import logging

import pandas as pd

from recipe.data.labels import NUMBER, SHOWN, canonical_name, is_fraction, normal_form
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)


def source_of(frame: pd.DataFrame) -> str:
    """Return where a split's rows come from, for messages about all of them."""
    sources = frame["source"].unique()
    return sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def check_rows(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Refuse rows that cannot be trained on; return the frame with a column `source`, labels and groups as strings.

    Raises:
        RecipeError: missing, several or wrongly typed values, with their rows.
    """
    frame = frame.assign(source=source)
    for column in ("text", "text_pair", "label", "group"):
        if column in frame:
            field = "" if column in ("text", "label") else f" (--{column}_column)"
            refuse_rows(frame, frame[column].isna(), f"no {column}{field}", f"fill in the {column} or drop the row")
    check_texts(frame)
    for column, problem in (("label", "several labels (multi-label)"), ("group", "several groups")):
        if column in frame:
            listed = frame[column].map(lambda cell: isinstance(cell, (list, dict)))
            refuse_rows(frame, listed, problem, f"this recipe gives each text one {column}")
            frame[column] = frame[column].map(canonical_name)
            refuse_rows(frame, frame[column] == "", f"no {column}", f"fill in the {column} or drop the row")
    return frame


def check_texts(frame: pd.DataFrame) -> None:
    """Refuse texts that are neither strings nor missing."""
    for column in ("text", "text_pair"):
        if column in frame:
            strange = frame[column].map(lambda text: not isinstance(text, str)) & frame[column].notna()
            refuse_rows(frame, strange, f"a {column} that is not a string", "put the text in quotes")


def refuse_rows(frame: pd.DataFrame, bad: pd.Series, problem: str, fix: str) -> None:
    """Raise an error about the bad rows, if any: those of the first file that holds some."""
    bad_rows = frame[bad.astype(bool)]
    if bad_rows.empty:
        return
    source = bad_rows["source"].iloc[0]
    rows = bad_rows["row"][bad_rows["source"] == source].tolist()
    shown = ", ".join(str(row) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
    where = f"row {shown} has" if len(rows) == 1 else f"rows {shown} ({len(rows)} in all) have"
    raise RecipeError(f"{source}: {where} {problem}: {fix}")


def refuse_regression(rows: pd.DataFrame) -> None:
    """Refuse fractional labels where every label is a number; beside names, a number is a name like any other."""
    names = rows["label"].unique()
    if all(NUMBER.fullmatch(name) for name in names):
        fractional = rows["label"].isin([name for name in names if is_fraction(name)])
        refuse_rows(rows, fractional, "a fractional label (regression)", "labels are names or whole numbers")


def check_known_labels(frame: pd.DataFrame, names: list[str], of_model: bool = False) -> None:
    """Refuse labels of a validation or test file that the training data, or a saved model, does not have."""
    unknown = ~frame["label"].isin(names)
    if not unknown.any():
        return
    label = frame["label"][unknown].iloc[0]
    known = ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    lacking, fix = "the training data lacks", "correct it, or add such rows to the training data"
    if of_model:
        lacking, fix = "the model does not know", "correct it, or drop the row"
    elif normal_form(label) in map(normal_form, names):
        fix = "--normalize_labels true merges labels that differ only by case or spaces"
    refuse_rows(frame, unknown, f"a label that {lacking}, such as {label!r}", f"known are {known}; {fix}")


def check_label_coverage(counts: pd.DataFrame) -> None:
    """Warn of labels that a split lacks; refuse a training split of one label, which cannot teach anything.

    Args:
        counts: texts of each split (rows) and label (columns).
    """
    if (counts.loc["train"] > 0).sum() < 2:
        raise RecipeError(
            f"the training split holds a single label ({counts.loc['train'].sum()} texts are left after duplicates and"
            " limits): give more rows, or a larger max_train_samples"
        )
    for split, of_label in counts.iterrows():
        if absent := of_label.index[of_label == 0].tolist():
            logger.warning("%s: no text has the label %s", split, ", ".join(map(repr, absent[:SHOWN])))
