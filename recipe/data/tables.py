"""Tables: the wanted columns of a file of any format, as Python values, with the number of each row."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from tqdm.auto import tqdm

from recipe.data.files import Batch, FileFormat, read_batches
from recipe.data.store import TextStore
from recipe.data.texts import clean_text
from recipe.errors import RecipeError, as_recipe_error

USUAL_COLUMNS = {
    "text": ("text", "sms", "message", "sentence", "content", "review", "body", "document", "question", "title"),
    "label": ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic"),
}
Wanted = Mapping[str, str | None]  # field -> the name of its column; None: see match_columns


class Table(NamedTuple):
    """The wanted columns of a file.

    frame: a column for each field (None where a cell is missing), and `row`, the number of each row in its file.
    label_names: by id, where the label column declares them (`ClassLabel`).
    """

    frame: pd.DataFrame
    label_names: list[str] | None = None


TEXT_AND_LABEL = {"text": None, "label": None}  # both found by a usual name


def clean_name(name: Any) -> str:
    """Return a column's name without the spaces and the byte-order mark that exports leave around it."""
    return str(name).strip(" \t\r\n\v\f\u00a0\ufeff")


def match_columns(names: Sequence[str], wanted: Wanted) -> dict[str, str | None]:
    """Return the column of each field, None if there is none: the one that is wanted by name, else a usual one in any case.

    A field without a name or a usual one is left out.
    """
    named = {field: clean_name(name) for field, name in wanted.items() if name is not None}
    # What one field names (`title` as text_pair) is not another's usual name.
    free = {name.lower(): name for name in reversed(names) if name not in named.values()}
    found = {field: name if name in names else None for field, name in named.items()}
    usual = {field: USUAL_COLUMNS[field] for field in USUAL_COLUMNS if field in wanted and field not in named}
    return found | {field: next((free[x] for x in usual[field] if x in free), None) for field in usual}


def locate_columns(names: Sequence[str], wanted: Wanted) -> dict[str, str | None]:
    """Return the column of each field, None if there is none, by the name that the file gives it."""
    cleaned = [clean_name(name) for name in names]
    found = match_columns(cleaned, wanted)
    return {field: None if name is None else names[cleaned.index(name)] for field, name in found.items()}


def find_columns(source: str, names: Sequence[str], wanted: Wanted, row_count: int) -> dict[str, str]:
    """Return the name of each wanted column; refuse one that is absent or there twice, and a file without rows."""
    if not row_count:
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")
    given, names = names, [clean_name(name) for name in names]
    given_names = [clean_name(name) for name in wanted.values() if name is not None]
    if twice := [name for name in given_names if given_names.count(name) > 1]:
        raise RecipeError(f"{source}: the column {twice[0]!r} is given for two fields: each takes a column of its own")
    columns = match_columns(names, wanted)
    for field, column in columns.items():
        if column is None:
            usual = f"no column with a usual name ({', '.join(USUAL_COLUMNS.get(field, ())[:4])} ...)"
            missing = usual if wanted[field] is None else f"no column {wanted[field]!r}"
            fix = f"name it with --{field}_column, or, if row 1 is no header, with --column_names"
            if taken := [name for name in given_names if name.lower() in USUAL_COLUMNS.get(field, ())]:
                fix = f"the column {taken[0]!r} is taken for another field: give --{field}_column"
            elif len(names) == 1 and any(mark in names[0] for mark in "|;\t"):
                fix = "give the --delimiter that stands between the columns"
            raise RecipeError(f"{source}: {missing} among {', '.join(repr(x[:40]) for x in names[:12])}: {fix}")
        if names.count(column) > 1:
            raise RecipeError(f"{source}: two columns are called {column!r}: rename one of them")
    return locate_columns(given, wanted)


def read_file(
    path: str | Path,
    wanted: Wanted = TEXT_AND_LABEL,
    file_format: FileFormat = FileFormat(),
    store: TextStore | None = None,
) -> Table:
    """Read the wanted columns of a file (see read_batches), all of it.

    Args:
        wanted: what to take, as `text`, `label`, `text_pair`, `group` or `time` -> the column's name; `text` and
            `label` are found by a usual name where it is None, the others are left out.
        store: takes the texts, as in make_table.

    Returns:
        A frame with those columns, as the file holds them (None for a missing cell), and `row`: JSON lines by line; JSON
        arrays, Parquet and saved datasets from 1; CSV by row, the header being row 1 (blank lines do not count, and a
        cell of several lines counts once). And the names by id that the label column's `ClassLabel` declares, or None.
    """
    batches = open_batches(path, wanted, file_format)
    batches = tqdm(batches, desc=f"Reading {path}", unit=" batches", delay=0.5, leave=False)
    return make_table(str(path), batches, wanted, file_format, store)


def open_batches(path: str | Path, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield a file's rows; `wanted` tells a header from a first row of texts."""

    def is_header(names: list[str]) -> bool:
        found = match_columns([clean_name(name) for name in names], wanted)
        return all(found[field] for field in USUAL_COLUMNS if field in found)

    return read_batches(Path(path), file_format, is_header)


def make_table(
    source: str,
    batches: Iterable[Batch],
    wanted: Wanted,
    file_format: FileFormat = FileFormat(),
    store: TextStore | None = None,
) -> Table:
    """Return the wanted columns of the batches; refuse columns that are absent or there twice, and a file without rows.

    Args:
        store: takes the texts; the frame then holds "" for each, and its index is their positions in the store.
    """
    first_position = store.size if store else 0
    parts, rows, features = [], [np.empty(0, dtype=np.int64)], None
    names, known, columns = [], set(), locate_columns([], wanted)
    for batch in batches:
        features = batch.features if features is None else features
        if new := [name for name in batch.names if name not in known]:  # JSON lines may have keys that come later
            names += new  # of a CSV file, where one may come twice
            known.update(new)
            columns = locate_columns(names, wanted)
        cells = {field: column_values(source, batch, name, file_format) for field, name in columns.items()}
        parts.append((columns, store.add(cells) if store else cells))
        rows.append(np.asarray(batch.rows, dtype=np.int64))
    row = np.concatenate(rows)
    columns = find_columns(source, names, wanted, len(row))
    frame: dict[str, Any] = {}
    for field, name in columns.items():
        # Batches before the first that has this column were read from another, or none: they lack it.
        cells = (part[field] if used[field] == name else [None] * len(part[field]) for used, part in parts)
        frame[field] = list(itertools.chain.from_iterable(cells))
    feature = features.get(columns.get("label"))
    label_names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    index = pd.RangeIndex(first_position, first_position + len(row))
    return Table(pd.DataFrame(frame, dtype=object, index=index).assign(row=row), label_names)


def column_values(source: str, batch: Batch, name: str | None, file_format: FileFormat = FileFormat()) -> list[Any]:
    """Return a column's cells as Python values; of a ClassLabel, the names of its ids; None where the batch lacks it."""
    if name not in batch.names:
        return [None] * len(batch.rows)
    return cells_at(source, batch, batch.names.index(name), file_format)


def cells_at(source: str, batch: Batch, position: int, file_format: FileFormat = FileFormat()) -> list[Any]:
    """Return the same of the column at a position."""
    name, cells = batch.names[position], batch.columns[position]
    feature = batch.features.get(name)
    if not isinstance(cells, list):
        # Bytes that are no text, or times outside of Python's range.
        errors = (ValueError, OverflowError, pa.ArrowException)
        with as_recipe_error(errors, f"{source}: column {name!r} cannot be read", "write it again"):
            if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
                cells = cells.cast(pa.large_string())  # strings that their writer did not mark as such
            if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
                largest = pa.compute.max(pa.compute.binary_length(cells)).as_py() or 0
                if largest > file_format.max_row:
                    large = f"column {name!r} has a text of {largest / 1e6:.0f} MB"
                    raise RecipeError(f"{source}: {large}: cut it, or raise --max_row_mb")
            cells = cells.to_pylist()
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))
        cells = [names.get(cell) for cell in cells]  # -1 stands for no label
    return [clean_text(cell) for cell in cells]
