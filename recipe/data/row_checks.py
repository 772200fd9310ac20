"""Rows that cannot be used, refused with their file and their numbers."""

import logging

import pandas as pd

from recipe.errors import RecipeError
from recipe.data.labels import NUMBER, SHOWN, canonical_name, is_fraction, normal_form

logger = logging.getLogger(__name__)


def source_of(frame: pd.DataFrame) -> str:
    """Where a split's rows come from, for messages about all of them."""
    sources = frame["source"].unique()
    return sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def check_rows(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Refuses rows that cannot be trained on; labels and groups become strings (1, 1.0 and "1" are one label).

    Returns:
        The frame with `source` as one more column.
    """
    frame = frame.assign(source=source)
    for column in ("text", "text_pair", "label", "group"):
        if column in frame:
            field = "" if column in ("text", "label") else f" (--{column}_column)"
            refuse_rows(frame, frame[column].isna(), f"no {column}{field}", f"fill in the {column} or drop the row")
    check_texts(frame, source)
    for column, what in (("label", "several labels (multi-label)"), ("group", "several groups")):
        if column in frame:
            listed = frame[column].map(lambda cell: isinstance(cell, (list, dict)))
            refuse_rows(frame, listed, what, f"this recipe gives each text one {column}")
            frame[column] = frame[column].map(canonical_name)
            refuse_rows(frame, frame[column] == "", f"no {column}", f"fill in the {column} or drop the row")
    return frame


def check_texts(frame: pd.DataFrame, source: str) -> None:
    """Refuses texts that are neither strings nor missing; in prediction, what is missing counts as empty."""
    frame = frame.assign(source=source)
    for column in ("text", "text_pair"):
        if column in frame:
            strange = frame[column].map(lambda text: not isinstance(text, str)) & frame[column].notna()
            refuse_rows(frame, strange, f"a {column} that is no string", "put the text in quotes")


def refuse_rows(frame: pd.DataFrame, bad: pd.Series, what: str, mend: str) -> None:
    """Raises an error about the rows that are bad, if any: those of the first file that holds some."""
    bad = bad.astype(bool)
    if not bad.any():
        return
    bad_rows = frame[bad]
    source = bad_rows["source"].iloc[0]
    rows = bad_rows["row"][bad_rows["source"] == source].tolist()
    shown = ", ".join(str(row) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
    where = f"row {shown} has" if len(rows) == 1 else f"rows {shown} ({len(rows)} in all) have"
    raise RecipeError(f"{source}: {where} {what}: {mend}")


def refuse_regression(rows: pd.DataFrame) -> None:
    """Refuses fractional labels where every label is a number; beside names, a number is a name like any other."""
    names = rows["label"].unique()
    if all(NUMBER.fullmatch(name) for name in names):
        fractional = rows["label"].isin([name for name in names if is_fraction(name)])
        refuse_rows(rows, fractional, "a fractional label (regression)", "labels are names or whole numbers")


def check_known_labels(frame: pd.DataFrame, names: list[str], of_model: bool = False) -> None:
    """Refuses a validation or test file's labels that the training data, or a model that is there, lacks."""
    unseen = ~frame["label"].isin(names)
    if unseen.any():
        label = frame["label"][unseen].iloc[0]
        known = ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        what = f"a label that {'the model does not know' if of_model else 'the training data lacks'}, such as {label!r}"
        mend = (
            f"known are {known}; correct it, or {'drop the row' if of_model else 'add such rows to the training data'}"
        )
        if not of_model and normal_form(label) in map(normal_form, names):
            mend = f"known are {known}; --normalize_labels true merges labels that differ only by case or spaces"
        refuse_rows(frame, unseen, what, mend)


def check_label_coverage(frames: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Warns of labels that a split lacks; refuses a training split of one label, which cannot teach anything."""
    for split, frame in frames.items():
        absent = [name for name in names if name not in set(frame["label"])]
        if split == "train" and len(absent) > len(names) - 2:
            raise RecipeError(
                f"the training split holds a single label ({len(frame)} texts are left after duplicates and limits):"
                " give more rows, or a larger max_train_samples"
            )
        if absent:
            logger.warning("%s: no text has the label %s", split, ", ".join(repr(name) for name in absent[:SHOWN]))
