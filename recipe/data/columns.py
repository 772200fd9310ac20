"""Columns: which columns of a file hold the texts, the labels and what else is wanted, by name or by a usual name."""

import re
from collections.abc import Iterable, Mapping, Sequence

from recipe.errors import RecipeError

USUAL_COLUMNS = {
    "text": ("text", "sms", "message", "sentence", "content", "review", "body", "document", "question", "title"),
    "label": ("label", "labels", "category", "class", "stance", "target", "intent", "sentiment", "topic"),
    "split": ("split", "partition"),
}
OPTIONAL = ("split",)  # read where a file has it
PAIRS = (
    ("premise", "hypothesis"),
    ("query", "document"),
    ("question", "answer"),
)  # beside sentence1, sentence2 and so on
# field -> the name of its column; names to look for, in this order; None: a usual name. Texts are `text`, `text_2` ...
Wanted = Mapping[str, str | tuple[str, ...] | None]
TEXT_AND_LABEL = {"text": None, "label": None}


def wanted_texts(text_column: Sequence[str] | None, text_pair_column: str | None = None) -> dict[str, str | None]:
    """Return the fields of one or several columns of texts, which are joined."""
    columns = [*(text_column or [None]), *([text_pair_column] if text_pair_column else [])]
    return {"text" if number == 1 else f"text_{number}": column for number, column in enumerate(columns, start=1)}


def text_fields(fields: Iterable[str]) -> list[str]:
    """Return which of the fields are texts."""
    return [field for field in fields if field == "text" or field.startswith("text_")]


def clean_name(name: str) -> str:
    """Return a column's name without the spaces and the byte-order mark that exports leave around it."""
    return str(name).strip(" \t\r\n\v\f\u00a0\ufeff")


def named_columns(wanted: Wanted) -> dict[str, str]:
    """Return the fields whose column is named, and its name."""
    return {field: clean_name(name) for field, name in wanted.items() if isinstance(name, str)}


def match_columns(names: Sequence[str], wanted: Wanted) -> dict[str, str | None]:
    """Return the column of each field as the file names it, None if there is none; names count in any case, if that is clear."""
    cleaned = {clean_name(name): name for name in reversed(names)}
    lower = [name.lower() for name in cleaned]
    in_any_case = {name.lower(): name for name in cleaned if lower.count(name.lower()) == 1}

    def find(name: str) -> str | None:
        return name if name in cleaned else in_any_case.get(name.lower())

    found = {field: find(name) for field, name in named_columns(wanted).items()}
    # What one field names (`title` as a second text) is not another's usual name.
    free = {name.lower(): name for name in cleaned if name not in found.values()}
    for field in wanted.keys() - found.keys():
        if usual := wanted[field] or USUAL_COLUMNS.get(field):
            found[field] = next((free[name] for name in usual if name in free), None)
    return {field: cleaned.get(found[field]) for field in wanted if field in found}


def find_columns(source: str, names: Sequence[str], wanted: Wanted) -> dict[str, str]:
    """Return the column of each field as the file names it; refuse one that is absent or there twice."""
    cleaned = [clean_name(name) for name in names]
    given = [*named_columns(wanted).values()]
    if twice := [name for name in given if given.count(name) > 1]:
        raise RecipeError(f"{source}: the column {twice[0]!r} is given for two fields: each takes a column of its own")
    columns = match_columns(names, wanted)
    if (
        not isinstance(wanted.get("label", ""), str)
        and "input_label" in cleaned
        and any(x.startswith("probability_") for x in cleaned)
    ):
        what = "label is what predict.py answered, input_label what its input said"
        raise RecipeError(f"{source}: {what}: give --label_column input_label, or label")
    for field, column in columns.items():
        if column is None and field not in OPTIONAL:
            raise missing_column(source, cleaned, field, wanted)
        if column is not None and cleaned.count(clean_name(column)) > 1:
            raise RecipeError(f"{source}: two columns are called {clean_name(column)!r}: rename one of them")
    return {field: column for field, column in columns.items() if column is not None}


def missing_column(source: str, names: Sequence[str], field: str, wanted: Wanted) -> RecipeError:
    """Return the error for a field without a column, with the option that helps most."""
    is_text, usual = field in text_fields([field]), USUAL_COLUMNS.get(field, ())
    option = "--text_column" if is_text else f"--{field}_column"
    named = named_columns(wanted)
    missing = (
        f"no column {named[field]!r}" if field in named else f"no column with a usual name ({', '.join(usual[:4])} ...)"
    )
    names_it = f" with {named[field]!r} among them" if field in named else ""
    fix = f"name it with {option}, or, if row 1 is no header, pass --column_names{names_it}"
    others = [name for other, name in named.items() if other != field]
    if taken := [name for name in others if field not in named and name.lower() in usual]:
        fix = f"the column {taken[0]!r} is taken for another field: give {option}"
    elif len(names) == 1 and (re.search("[|;\t]", names[0]) or {*named.values(), *usual} & {*names[0].split(",")[:-1]}):
        fix = "give the --delimiter that stands between the columns"
    elif len(names) == 1 and "label" in wanted:
        fix = "texts and labels need a column each: write both into one file, or give the --delimiter between them"
        fix += " (texts without labels are for predict.py)"
    elif is_text and len(names) == 1:
        fix = f"name it with {option}, or, for a text on each line, pass --column_names {named.get(field, 'text')}"
    elif is_text and (pair := pair_of(names)):
        fix = f"for pairs of texts pass {option} {' '.join(map(repr, pair))}"
    elif field == "label" and {"coarse", "fine"} <= {*names}:  # of TREC
        fix = "give --label_column coarse, or fine"
    elif is_text and match_columns(names, wanted).get("label", "") is None:
        fix = "name the columns with --text_column and --label_column, or, if row 1 is no header, pass --column_names"
    elif field == "label":
        fix += " (texts without labels are for predict.py)"
    return RecipeError(f"{source}: {missing} among {', '.join(repr(x[:40]) for x in names[:12])}: {fix}")


def pair_of(names: Sequence[str]) -> tuple[str, str] | None:
    """Return two columns that look like a pair of texts: sentence1 and sentence2, premise and hypothesis ..."""
    in_any_case = {name.lower(): name for name in names}
    words = [name for name in in_any_case if re.search("[a-z]{3}.*1|1.*[a-z]{3}", name) and "id" not in name]
    numbered = [(name, name.replace("1", "2", 1)) for name in words]
    for first, second in (*numbered, *PAIRS):
        if first in in_any_case and second in in_any_case:
            return in_any_case[first], in_any_case[second]
    return None
