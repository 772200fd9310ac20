"""The columns of a file, whatever its format: found by their names, and taken out as plain Python values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.errors import RecipeError

TEXT_COLUMNS = ("text", "sms", "message", "sentence", "content", "review", "body", "document", "question", "title")
LABEL_COLUMNS = ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic")


@dataclass(frozen=True)
class Table:
    """What every format is read into.

    columns: the names of the columns, cleaned; a name may stand there twice.
    rows: the number of each row in its file.
    cells: gives the values of the column at a position, missing ones as None (or a NaN that the file holds).
    label_names: by position of the column, the names that its whole numbers stand for (`ClassLabel`).
    """

    columns: list[str]
    rows: Sequence[int]
    cells: Callable[[int], list[Any]]
    label_names: dict[int, list[str]]


def clean_name(name: Any) -> str:
    """A column's name without the spaces and the byte-order mark that exports leave around it."""
    return str(name).strip(" \t\r\n\v\f\u00a0\ufeff")


def clean_text(text: Any) -> Any:
    """Joins surrogate pairs and puts U+FFFD for lone surrogates (JSON escapes can hold them, UTF-8 cannot)."""
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def match_column(columns: list[str], wanted: str | None, candidates: tuple[str, ...]) -> str | None:
    """The wanted column if it is there; with none wanted, the first usual name that is, in any case."""
    if wanted is not None:
        return clean_name(wanted) if clean_name(wanted) in columns else None
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in candidates if name in by_name), None)


def find_column(columns: list[str], wanted: str | None, candidates: tuple[str, ...], field: str, source: str) -> str:
    """As match_column, but a column that is not there, or twice, is a RecipeError that says how to name it."""
    column = match_column(columns, wanted, candidates)
    if column is None:
        missing = (
            f"no column {wanted!r}" if wanted else f"no column with a usual name ({', '.join(candidates[:4])} ...)"
        )
        shown = ", ".join(repr(name[:40]) for name in columns[:12])
        raise RecipeError(
            f"{source}: {missing} among {shown}: name it with --{field}, or, if row 1 is no header, with --column_names"
        )
    if columns.count(column) > 1:
        raise RecipeError(f"{source}: two columns are called {column!r}: rename one of them")
    return column


def take_column(table: Table, column: str) -> list[Any]:
    """The cells of a column; whole numbers that stand for names (`ClassLabel`) are replaced by those, -1 by None."""
    position = table.columns.index(column)
    cells, names = table.cells(position), table.label_names.get(position)
    if names is not None:
        cells = [names[cell] if cell is not None and 0 <= cell < len(names) else None for cell in cells]
    return [clean_text(cell) for cell in cells]
