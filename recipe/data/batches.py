"""Batches: rows as a file holds them, and what the options say of files."""

import codecs
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from recipe.arguments import DataArguments
from recipe.data.first_bytes import BLOCK
from recipe.errors import RecipeError

BATCH_ROWS = 2048


@dataclass(frozen=True)
class FileFormat:
    """How to read a file where its name and content do not tell (field names as in DataArguments)."""

    delimiter: str | None = None
    csv_quoting: str = "auto"
    column_names: tuple[str, ...] | None = None
    max_row_mb: float = 16.0
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None:
            try:
                known = codecs.lookup(self.encoding)._is_text_encoding
            except (LookupError, ValueError):  # ValueError: a NUL in the name
                known = False
            if not known:
                raise RecipeError(
                    f"encoding is {self.encoding!r}: take one that Python knows, such as cp1252 or gb18030"
                )

    @classmethod
    def of(cls, args: DataArguments | Namespace) -> "FileFormat":
        """Return the format that options ask for; those that are absent, or None, have their defaults."""
        given = {field.name: getattr(args, field.name, None) for field in fields(cls)}
        names = given["column_names"]
        given["column_names"] = tuple(names) if names else None
        return cls(**{name: value for name, value in given.items() if value is not None})

    @property
    def max_row(self) -> int:
        """Bytes of the largest row that is read."""
        return max(int(self.max_row_mb * 1e6), BLOCK)


class Batch(NamedTuple):
    """Some rows of a file."""

    names: list[str]  # of the columns, as the file has them
    columns: list[Any]  # one for each name: a list of Python values, or an Arrow array
    rows: Sequence[int]  # the number of each row in the file
    features: Mapping[str, Any] = {}  # what `datasets` knows of a column, by name


def batch_of_records(records: Mapping[int, Mapping[str, Any]]) -> Batch:
    """Return the batch of records (name -> cell) by their row numbers; a name that a record lacks is None there."""
    names = list(dict.fromkeys(name for record in records.values() for name in record))
    return Batch(names, [[record.get(name) for record in records.values()] for name in names], list(records))
