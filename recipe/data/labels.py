"""Labels: one spelling of each value in every file format, and ids that do not depend on the order of the rows."""

import logging
import re
from decimal import Decimal
from typing import Any

import pandas as pd

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?inf(inity)?", re.IGNORECASE)
SHOWN = 8  # labels, or groups of them, that a message names


def canonical_name(value: Any) -> str:
    """Return one spelling for a value, whatever format holds it: 1, 1.0, "1.0" and "1 " are "1"; True and "TRUE" "true".

    It depends on the value alone, so that files with different rows agree. "01" is not how a number is written out, so
    it stays a name; a fraction is as Python prints it.
    """
    if isinstance(value, (float, Decimal)):
        return str(int(value)) if is_integer(value) else str(value)
    name = str(value).strip()
    if name.lower() in ("true", "false"):
        return name.lower()
    if re.fullmatch(r"-?(0|[1-9][0-9]*)\.0+|-0", name):
        return name.partition(".")[0].replace("-0", "0")
    if re.fullmatch(r"-?[1-9](\.[0-9]+)?e\+[0-9]+", name) and is_integer(float(name)):
        return str(int(float(name)))  # how Python and pandas write out whole floats from 1e16 up
    return name


def is_integer(number: float | Decimal) -> bool:
    return number == number and abs(number) != float("inf") and number == int(number)


def is_fraction(name: str) -> bool:
    """Return whether a label's name is a number, but not an integer."""
    return bool(NUMBER.fullmatch(name)) and not is_integer(float(name))


def normal_form(name: str) -> str:
    """Return the name without differences of case and spaces."""
    return " ".join(name.casefold().split())


def spell_labels(labels: pd.Series, of_head: list[str] | None, normalize: bool) -> pd.Series:
    """Return labels as a checkpoint's head spells them, where it has them; others, with normalize, in normal form.

    Without normalize, only equal values are the head's label ("True" of the head is "true" of the data).
    """

    def key(name: str) -> str:
        return normal_form(name) if normalize else name

    head = pd.Series(of_head or [], dtype=object)
    keys = head.map(canonical_name).map(key)
    head = dict(zip(keys, head, strict=True)) if keys.is_unique else {}
    return labels.map({label: head.get(key(label), key(label)) for label in labels.unique()})


def warn_of_spellings(labels: pd.Series, of_head: list[str] | None) -> None:
    """Warn once of all labels that differ only by case and spaces, with the counts of each spelling.

    Warn as well where a checkpoint's head has the same labels but for case or spaces.
    """
    counts = labels.value_counts()
    alike = [spellings for _, spellings in counts.groupby(counts.index.map(normal_form)) if len(spellings) > 1]
    if alike:
        shown = ["/".join(f"{name!r} ({count:,})" for name, count in spellings.items()) for spellings in alike[:SHOWN]]
        more = f", and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
        logger.warning(
            "labels that differ only by case or spaces count as different labels: %s%s: --normalize_labels true merges them",
            ", ".join(shown),
            more,
        )
    found, head = set(counts.index), set(of_head or [])
    if head and head != found and set(map(normal_form, head)) == set(map(normal_form, found)):
        logger.warning(
            "the labels differ from those of the checkpoint's head (%s) only by case or spaces:"
            " --normalize_labels true takes its spelling",
            ", ".join(repr(name) for name in of_head[:SHOWN]),
        )


def order_labels(labels: pd.Series, declared: list[str] | None, of_head: list[str] | None) -> list[str]:
    """Return the labels by id, in an order that does not depend on the rows': numbers by value, names by alphabet.

    Args:
        labels: of the training rows.
        declared: the names by id of a ClassLabel column, taken unchanged if they hold all the labels.
        of_head: the names by id of a checkpoint's head, taken if they hold all the labels.
    """
    found = set(labels)
    if of_head is not None and found <= set(of_head):
        return list(of_head)
    if declared is not None and found <= set(declared):
        return list(dict.fromkeys(declared))
    numeric = all(len(name) < 1000 and name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=(lambda name: (int(name), name)) if numeric else None)
