"""Columns: which column of a file holds the texts, the labels and what else is wanted, by name or by a usual name."""

from collections.abc import Mapping, Sequence

from recipe.errors import RecipeError

USUAL_COLUMNS = {
    "text": ("text", "sms", "message", "sentence", "content", "review", "body", "document", "question", "title"),
    "label": ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic"),
}
Wanted = Mapping[str, str | None]  # field -> the name of its column; None: a usual name, or the field is left out
TEXT_AND_LABEL = {"text": None, "label": None}


def clean_name(name: str) -> str:
    """Return a column's name without the spaces and the byte-order mark that exports leave around it."""
    return str(name).strip(" \t\r\n\v\f\u00a0\ufeff")


def match_columns(names: Sequence[str], wanted: Wanted) -> dict[str, str | None]:
    """Return the column of each field as the file names it, None if there is none; usual names count in any case."""
    named = {field: clean_name(name) for field, name in wanted.items() if name is not None}
    as_written = {clean_name(name): name for name in reversed(names)}
    # What one field names (`title` as text_pair) is not another's usual name.
    free = {name.lower(): name for name in as_written if name not in named.values()}
    for field in USUAL_COLUMNS.keys() & wanted.keys() - named.keys():
        named[field] = next((free[usual] for usual in USUAL_COLUMNS[field] if usual in free), None)
    return {field: as_written.get(named[field]) for field in wanted if field in named}


def find_columns(source: str, names: Sequence[str], wanted: Wanted) -> dict[str, str]:
    """Return the column of each field as the file names it; refuse one that is absent or there twice."""
    cleaned = [clean_name(name) for name in names]
    given = [clean_name(name) for name in wanted.values() if name is not None]
    if twice := [name for name in given if given.count(name) > 1]:
        raise RecipeError(f"{source}: the column {twice[0]!r} is given for two fields: each takes a column of its own")
    columns = match_columns(names, wanted)
    if (
        wanted.get("label", "") is None
        and "input_label" in cleaned
        and any(x.startswith("probability_") for x in cleaned)
    ):
        what = "label is what predict.py answered, input_label what its input said"
        raise RecipeError(f"{source}: {what}: give --label_column input_label, or label")
    for field, column in columns.items():
        usual = USUAL_COLUMNS.get(field, ())
        if column is None:
            missing = (
                f"no column {wanted[field]!r}"
                if wanted[field]
                else f"no column with a usual name ({', '.join(usual[:4])} ...)"
            )
            fix = f"name it with --{field}_column, or, if row 1 is no header, with --column_names"
            if taken := [name for name in given if name.lower() in usual]:
                fix = f"the column {taken[0]!r} is taken for another field: give --{field}_column"
            elif len(names) == 1 and any(mark in names[0] for mark in "|;\t"):
                fix = "give the --delimiter that stands between the columns"
            raise RecipeError(f"{source}: {missing} among {', '.join(repr(x[:40]) for x in cleaned[:12])}: {fix}")
        if cleaned.count(clean_name(column)) > 1:
            raise RecipeError(f"{source}: two columns are called {clean_name(column)!r}: rename one of them")
    return columns
