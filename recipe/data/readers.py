"""Files of texts and labels -> rows: CSV, TSV, JSON lines, Parquet and saved datasets, checked before anything is computed."""

import contextlib
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from recipe.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, Table, clean_text, find_column, take_column
from recipe.data.delimited import FileFormat, parse_delimited
from recipe.errors import RecipeError, one_line
from recipe.data.formats import (
    JSON_SUFFIXES,
    decode_text,
    parse_json_lines,
    parse_parquet,
    read_content,
    read_saved_dataset,
)

__all__ = ["FileFormat", "clean_text", "expand_paths", "read_file", "take_columns"]


def read_file(
    path: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    file_format: FileFormat = FileFormat(),
    needs_label: bool = True,
    extra_columns: Mapping[str, str | None] | None = None,
) -> pd.DataFrame:
    """Reads a .csv, .tsv, .jsonl, .ndjson, .json (one object a line) or .parquet file, each also as .gz, or a folder
    that `save_to_disk` wrote for a Dataset; other names are read as CSV or TSV.

    Args:
        extra_columns: what else to take, as `text_pair`, `group` or `time` -> the column's name; None is left out.

    Returns:
        A frame with `text`, `label` if needs_label, and the extra ones, as the file holds them (None where it holds
        nothing), and `row`: JSON lines by line; Parquet and saved datasets from 1; CSV by row, the header being row 1
        (lines that are blank do not count, and a cell of several lines counts once). `attrs["label_names"]` are the
        names that a `ClassLabel` declares, or None.

    Raises:
        RecipeError: missing, empty or unreadable file, non-UTF-8 bytes (line), broken line (line), or missing column.
    """
    path = Path(path)
    check_path(path)
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if path.is_dir():
        table = read_saved_dataset(path)
    elif suffix == ".parquet":
        table = parse_parquet(str(path), read_content(path))
    elif suffix in JSON_SUFFIXES:
        table = parse_json_lines(str(path), decode_text(str(path), read_content(path)))
    else:
        text = decode_text(str(path), read_content(path))
        table = parse_delimited(str(path), text, suffix, text_column, label_column, file_format, needs_label)
    return take_columns(str(path), table, text_column, label_column, needs_label, extra_columns)


def check_path(path: Path) -> None:
    """Refuses a name that the system cannot even look for: too long, with a NUL, in a folder that may not be entered."""
    try:
        with contextlib.suppress(FileNotFoundError):  # who reads it says so
            os.stat(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{str(path)!r:.200}: cannot be read ({one_line(error):.100}): check the path") from error


def take_columns(
    source: str,
    table: Table,
    text_column: str | None,
    label_column: str | None,
    needs_label: bool = True,
    extra_columns: Mapping[str, str | None] | None = None,
) -> pd.DataFrame:
    """The frame that read_file returns, of a table of any format; `source` is for its errors."""
    if not len(table.rows):
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")
    extra = {name: column for name, column in (extra_columns or {}).items() if column is not None}
    found = {name: find_column(table.columns, column, (), f"{name}_column", source) for name, column in extra.items()}
    # What another field names is not what goes by a usual name: `title` may be the pair of `body`.
    free = [column for column in table.columns if column not in found.values()]
    wanted = {"text": (text_column, TEXT_COLUMNS)} | ({"label": (label_column, LABEL_COLUMNS)} if needs_label else {})
    for name, (column, candidates) in wanted.items():
        columns = free if column is None else table.columns
        found[name] = find_column(columns, column, candidates, f"{name}_column", source)
    cells = {name: take_column(table, found[name]) for name in (*wanted, *extra)}
    frame = pd.DataFrame({**cells, "row": table.rows}, dtype=object)
    if needs_label:
        frame.attrs["label_names"] = table.label_names.get(table.columns.index(found["label"]))
    return frame


def expand_paths(paths: Sequence[str], field: str) -> list[str]:
    """Files, folders and globs (`**` too) as paths: globs sorted, each path once.

    Raises:
        RecipeError: a glob that matches nothing.
    """
    found: list[str] = []
    for path in paths:
        check_path(Path(path))
        if Path(path).exists() or not glob.has_magic(path):
            found.append(path)  # a file may be called a[1].csv
            continue
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise RecipeError(
                f"{field} {path!r} matches no file: check the pattern, and the folder that it starts from"
            )
        found += matches
    return list(dict.fromkeys(found))
