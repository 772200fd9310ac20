"""Rows: those that cannot be used are refused with file and number; labels get one spelling in every file format, and ids
that do not depend on the order of the rows.
"""

import ast
import contextlib
import functools
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from recipe.data.columns import text_fields
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?inf(inity)?", re.IGNORECASE)
SHOWN = 8  # labels, or groups of them, that a message names


def source_of(rows: pd.DataFrame) -> str:
    """Return where rows come from, for messages about all of them."""
    sources = rows["source"].unique()
    return sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def refuse_rows(rows: pd.DataFrame, bad: pd.Series, problem: str, fix: str) -> None:
    """Raise an error about the bad rows, if any: those of the first file that holds some."""
    bad_rows = rows[bad.astype(bool)]
    if bad_rows.empty:
        return
    source = bad_rows["source"].iloc[0]
    numbers = bad_rows["row"][bad_rows["source"] == source].tolist()
    raise RecipeError(f"{source}: {name_rows(numbers)} {problem}: {fix}")


def check_rows(
    rows: pd.DataFrame, source: str, columns: Mapping[str, str] | None = None, drop_missing: bool | None = None
) -> pd.DataFrame:
    """Refuse missing, several or wrongly typed values; return the rows with `source`, and labels and groups as strings.

    Args:
        columns: how the file calls the column of each field, for messages.
        drop_missing: return a column `missing` (bool) in place of refusing rows without text, label or group; None: refuse
            them, and do not name the option.
    """
    rows = rows.assign(source=pd.Series(source, rows.index, dtype=object))  # else pandas copies the name for each row
    columns = columns or {}
    check_texts(rows, columns)
    missing = {"text": rows[text_fields(rows.columns)].isna().all(axis=1)}
    for field in rows.columns.intersection(["label", "group"]):
        cells = pd.Series([*map(name_of, rows[field])], rows.index, dtype=object)
        several = f"several {field}s{' (multi-label)' if field == 'label' else ''}{of_column(columns, field)}"
        listed = cells.map(type).isin([list, dict])
        if listed.any():
            refuse_objects(rows, cells, field, columns)
        refuse_rows(rows, listed, several, f"this recipe gives each text one {field}")
        rows[field], missing[field] = cells, cells.isna()
    if drop_missing:
        return rows.assign(missing=np.logical_or.reduce([*missing.values()]))
    refuse_missing(rows, missing, columns, "" if drop_missing is None else " (--drop_missing true does that)")
    return rows


def refuse_missing(
    rows: pd.DataFrame, missing: Mapping[str, pd.Series], columns: Mapping[str, str], option: str
) -> None:
    """Raise one error about the rows of a file that lack a text, a label or a group; `option` is one more way on."""
    found = {field: rows["row"][lacking].tolist() for field, lacking in missing.items() if lacking.any()}
    if len(found.get("label", ())) == len(rows) > 1:
        where = f"{rows['source'].iloc[0]}: no row has a label{of_column(columns, 'label')}"
        raise RecipeError(f"{where}: predict.py classifies texts without labels, and a test needs them")
    if found:
        problems = [f"{name_rows(numbers)} no {field}{of_column(columns, field)}" for field, numbers in found.items()]
        several = "s" if sum(map(len, found.values())) > 1 else ""
        fix = f"fill in the {' and the '.join(found)} or drop the row{several}{option}"
        raise RecipeError(f"{rows['source'].iloc[0]}: {'; '.join(problems)}: {fix}")


def of_column(columns: Mapping[str, str], field: str) -> str:
    return f" (column {columns[field]!r})" if field in columns else ""


def name_rows(numbers: Sequence[int]) -> str:
    """Return the subject of a sentence about some rows."""
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"row {shown} has" if len(numbers) == 1 else f"rows {shown} ({len(numbers)} in all) have"


def name_of(cell: Any) -> Any:
    """Return a label or group in its one spelling, None for a missing one, and a list of several, or an object, as it is.

    Of a list of one, also one that is written out, such as "['spam']", it is the only item.
    """
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # a name in brackets
            cell = ast.literal_eval(cell)
    if isinstance(cell, list) and len(cell) < 2:
        cell = cell[0] if cell else None
    if cell is None or isinstance(cell, (list, dict)) or cell != cell:  # NaN is not itself
        return cell if isinstance(cell, (list, dict)) else None
    return canonical_name(cell) or None


def refuse_objects(rows: pd.DataFrame, cells: pd.Series, field: str, columns: Mapping[str, str]) -> None:
    """Refuse objects in place of texts or labels, and show how a field of theirs is named."""
    objects = cells.map(lambda cell: isinstance(cell, dict) and bool(cell))
    if objects.any():
        shown, option = cells[objects].iloc[0], "text" if field in text_fields([field]) else field
        names = sorted(shown, key=lambda name: isinstance(shown[name], int))  # ids last
        name = f"{columns.get(field, field)}.{names[0]}"
        fix = f"name the field that holds it ({', '.join(names[:SHOWN])}), as in --{option}_column {name}"
        refuse_rows(rows, objects, f"an object in place of a {option}", fix)


def check_texts(rows: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """Refuse texts that are neither strings nor missing; `columns` is how the file calls them."""
    for column in text_fields(rows.columns):
        strange = ~rows[column].map(type).isin([str]) & rows[column].notna()
        if strange.any():
            refuse_objects(rows, rows[column], column, columns)
        kinds = ", ".join(sorted({type(text).__name__ for text in rows[column][strange]}))
        refuse_rows(rows, strange, f"a text that is no string but {kinds}", "put the text in quotes")


def name_labels(
    rows: pd.DataFrame, declared: list[str] | None, head_names: list[str] | None, normalize: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with labels in their final spelling, and the names of the labels by id."""
    read = rows["label"].unique()
    if all(NUMBER.fullmatch(name) for name in read):  # beside names, a number is a name like any other
        numbers = {name: float(name) for name in read if not name.lstrip("+-").isdecimal()}  # of any length
        fractional = rows["label"].isin([name for name, number in numbers.items() if not number.is_integer()])
        refuse_rows(rows, fractional, "a fractional label (regression)", "labels are names or whole numbers")
    rows = rows.assign(label=spell_labels(rows["label"], head_names, normalize))
    if (merged := rows["label"].nunique()) < len(read):
        logger.info("%d spellings of labels are merged into %d labels", len(read), merged)
    if declared is not None:
        declared = spell_labels(pd.Series([*map(canonical_name, declared)]), head_names, normalize).tolist()
    train = rows[rows["split"] == "train"]
    names = order_labels(train["label"], declared, head_names)
    check_known_labels(rows, names)
    if train["label"].nunique() < 2:
        label = train["label"].iloc[0]
        raise RecipeError(f"{source_of(train)}: all rows have the label {label!r}: a classifier needs two labels")
    warn_about_spellings(rows["label"], head_names)
    return rows, names


def refuse_marks_of_none(rows: pd.DataFrame) -> None:
    """Refuse labels that stand for none in SNLI (`-` beside words) and in GLUE (-1 beside 0, 1, 2 ...)."""
    found = set(rows["label"].unique())
    words = all(re.search(r"\w", name) for name in found - {"-"})
    numbered = len(found) > 3 and found - {"-1"} == {str(i) for i in range(len(found) - 1)}  # -1, 0, 1 are sentiments
    for mark, is_meant in (("-", words and len(found) > 1), ("-1", numbered)):
        if mark in found and is_meant:
            problem = f"the label {mark!r}, which often stands for none"
            fix = f"pass --missing_label {mark} to drop these rows, or --missing_label none if it is a label"
            refuse_rows(rows, rows["label"] == mark, problem, fix)


def refuse_several_in_one(rows: pd.DataFrame) -> None:
    """Refuse labels such as "27,4" or "drama|war", most of whose parts are labels of their own, or parts of others too."""
    names = set(rows["label"].unique())
    for separator in ",|;":
        parts = {name: [part.strip() for part in name.split(separator)] for name in names if separator in name}
        counts = Counter(part for of_name in parts.values() for part in {*of_name})
        known = {part for part, count in counts.items() if part and (count > 1 or part in names)}
        several = [name for name, of_name in parts.items() if known.issuperset(of_name)]
        if several and 2 * len(several) >= len(parts):
            what = f"several labels in one, such as {several[0]!r}, with {separator!r} between (multi-label)"
            fix = "this recipe gives each text one label; if each is a name, pass --label_separator none"
            refuse_rows(rows, rows["label"].isin(several), what, fix)


def check_known_labels(rows: pd.DataFrame, names: list[str], of_model: bool = False) -> None:
    """Refuse labels of a validation or test file that the training data, or a saved model, does not have."""
    unknown = ~rows["label"].isin(names)
    if not unknown.any():
        return
    label = rows["label"][unknown].iloc[0]
    lacking, fix = "the training data lacks", "correct it, or add such rows to the training data"
    if of_model:
        lacking, fix = "the model does not know", "correct it, or drop the row"
    elif normal_form(label) in map(normal_form, names):
        fix = "--normalize_labels true merges labels that differ only by case or spaces"
    known = list_names(names) + (", ..." if len(names) > SHOWN else "")
    refuse_rows(rows, unknown, f"a label that {lacking}, such as {label!r}", f"known are {known}; {fix}")


def check_label_coverage(counts: pd.DataFrame) -> None:
    """Warn of labels (columns) that a split (row) has no texts of; refuse a training split of one label."""
    train = counts.loc["train"]
    if (train > 0).sum() < 2:
        single = f"the training split holds a single label ({train.sum()} texts are left after duplicates and limits)"
        raise RecipeError(f"{single}: give more rows, or a larger max_train_samples")
    for split, of_label in counts.iterrows():
        if absent := of_label.index[of_label == 0].tolist():
            logger.warning("%s: no text has the label %s", split, list_names(absent))


def list_names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:SHOWN])


@functools.lru_cache(maxsize=10_000, typed=True)  # equal names are one object, and 1 is not True
def canonical_name(value: Any) -> str:
    """Return one spelling for a value, whatever format holds it: 1, 1.0, "1.0" and "1 " are "1"; True and "TRUE" "true".

    It depends on the value alone, so that files with different rows agree. "01" is not how a number is written out, so
    it stays a name; a fraction is as Python prints it.
    """
    if isinstance(value, (float, Decimal)):
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    name = str(value).strip()
    if name.lower() in ("true", "false"):
        return name.lower()
    if re.fullmatch(r"-?(0|[1-9][0-9]*)\.0+|-0", name):
        return name.partition(".")[0].replace("-0", "0")
    if re.fullmatch(r"-?[1-9](\.[0-9]+)?e\+[0-9]+", name) and float(name).is_integer():
        return str(int(float(name)))  # how Python and pandas write out whole floats from 1e16 up
    return name


def normal_form(name: str) -> str:
    """Return the name without differences of case, of spaces, and of what the same letters are in Unicode."""
    visible = re.sub("[\u200b\ufeff\u00ad]", "", name)  # zero-width spaces, byte-order marks, soft hyphens
    return " ".join(unicodedata.normalize("NFC", visible.casefold()).split())


def spell_labels(labels: pd.Series, head_names: list[str] | None, normalize: bool) -> pd.Series:
    """Return labels as a checkpoint's head spells them, where it has them; others, with normalize, in normal form.

    Without normalize, only equal values are the head's label ("True" of the head is "true" of the data).
    """
    key = normal_form if normalize else str
    keys = [key(canonical_name(name)) for name in head_names or []]
    head = dict(zip(keys, head_names or [], strict=True)) if len({*keys}) == len(keys) else {}
    spelled = {label: head.get(key(label), key(label)) for label in labels.unique()}
    return pd.Series([spelled[label] for label in labels], labels.index, dtype=object)


def warn_about_spellings(labels: pd.Series, head_names: list[str] | None) -> None:
    """Warn of labels that differ from each other, or from a checkpoint's head, only by case or spaces."""
    counts = labels.value_counts()
    alike = [spellings for _, spellings in counts.groupby(counts.index.map(normal_form)) if len(spellings) > 1]
    if alike:
        shown = ["/".join(f"{name!r} ({count:,})" for name, count in spellings.items()) for spellings in alike[:SHOWN]]
        shown += [f"and {len(alike) - SHOWN} more"] if len(alike) > SHOWN else []
        problem = f"labels that look alike but for case or spaces count as different labels: {', '.join(shown)}"
        logger.warning("%s: --normalize_labels true merges them", problem)
    found, head = set(counts.index), set(head_names or [])
    if head and head != found and {*map(normal_form, head)} == {*map(normal_form, found)}:
        problem = "the labels differ from those of the checkpoint's head (%s) only by case or spaces"
        logger.warning(problem + ": --normalize_labels true takes its spelling", list_names(head_names))


def order_labels(labels: pd.Series, declared: list[str] | None, head_names: list[str] | None) -> list[str]:
    """Return the labels by id, whatever the order of the training rows: numbers by value, names by alphabet.

    The names by id of a checkpoint's head, else those that a ClassLabel column declares, are taken if they hold all.
    """
    found = set(labels.unique())
    if head_names is not None and found <= set(head_names):
        return list(head_names)
    if declared is not None and found <= set(declared):
        return list(dict.fromkeys(declared))
    numeric = all(len(name) < 1000 and name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=(lambda name: (int(name), name)) if numeric else None)
