"""Tables: the wanted columns of CSV, TSV, JSON, Parquet and saved datasets, each cell as the file holds it."""

import gzip
import json
import zlib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from huggingface_hub.utils import logging as hub_logging

from recipe.arguments import DataArguments
from recipe.data.texts import clean_text
from recipe.errors import RecipeError, explain, one_line

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


@dataclass(frozen=True)
class FileFormat:
    """How to read a delimited file where its name and first row do not tell (field names as in DataArguments)."""

    delimiter: str | None = None
    csv_quoting: str = "auto"
    column_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, args: DataArguments | Namespace) -> "FileFormat":
        return cls(args.delimiter, args.csv_quoting, tuple(args.column_names) if args.column_names else None)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where its name ends in .gz."""
    with explain((OSError, ValueError), f"{str(path)[:200]}: cannot be read", "check the path"):  # a NUL in the name
        content = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return content
    fix = "copy it again, or drop the .gz if it is not packed"
    with explain((OSError, EOFError, zlib.error), f"{path}: is not a complete gzip file", fix):
        return gzip.decompress(content)


def read_text(path: Path) -> str:
    """Return the text of a file; its bytes must be UTF-8."""
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise RecipeError(f"{path}: line {line} is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8") from error
    if not text.strip("\ufeff \t\r\n"):
        raise RecipeError(f"{path}: the file is empty: give a file with at least one text")
    return text


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


def find_columns(source: str, names: Sequence[str], wanted: Wanted, rows: Sequence[int]) -> dict[str, int]:
    """Return the position of each wanted column; refuse one that is absent or there twice, and a file without rows."""
    if not rows:
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")
    names = [clean_name(name) for name in names]
    columns = match_columns(names, wanted)
    for field, column in columns.items():
        if column is None:
            usual = f"no column with a usual name ({', '.join(USUAL_COLUMNS.get(field, ())[:4])} ...)"
            missing = usual if wanted[field] is None else f"no column {wanted[field]!r}"
            fix = f"name it with --{field}_column, or, if row 1 is no header, with --column_names"
            raise RecipeError(f"{source}: {missing} among {', '.join(repr(x[:40]) for x in names[:12])}: {fix}")
        if names.count(column) > 1:
            raise RecipeError(f"{source}: two columns are called {column!r}: rename one of them")
    return {field: names.index(column) for field, column in columns.items()}


def make_table(columns: Mapping[str, list], rows: Sequence[int], label_names: list[str] | None = None) -> Table:
    cleaned = {field: [clean_text(cell) for cell in cells] for field, cells in columns.items()}
    return Table(pd.DataFrame({**cleaned, "row": rows}, dtype=object), label_names)


def read_csv(path: Path, suffix: str, file_format: FileFormat, wanted: Wanted) -> Table:
    """Return the cells as strings; rows are numbered from 1, a header being row 1; blank lines do not count.

    An unquoted empty cell is None and a quoted one an empty text, which pandas does not tell apart; hence pyarrow, whose
    errors also name the row. Where the first row lacks the columns of texts and labels, `column_names` are put above it.
    """
    source, text = str(path), read_text(path).lstrip("\r\n")
    first_line = text.partition("\n")[0]
    marks = {".tsv": "", ".csv": ",\t;"}.get(suffix, "\t,;")
    guess = next((mark for mark in marks if mark in first_line), "\t" if suffix == ".tsv" else ",")
    delimiter = (file_format.delimiter or guess).replace("\\t", "\t")
    if len(delimiter) != 1 or not delimiter.isascii():
        raise RecipeError(f"delimiter is {delimiter!r}: give a single ASCII character, as in --delimiter ';'")
    quoted = {"minimal": True, "none": False, "auto": delimiter != "\t"}[file_format.csv_quoting]
    content = text.encode("utf-8")
    # A blank line is an empty value in a file of one column, and nothing at all elsewhere.
    options = {"delimiter": delimiter, "newlines_in_values": quoted, "ignore_empty_lines": delimiter in first_line}
    parse = pa.csv.ParseOptions(quote_char='"' if quoted else False, **options)
    nulls = {"null_values": [""], "strings_can_be_null": True, "quoted_strings_can_be_null": False}
    convert = pa.csv.ConvertOptions(default_column_type=pa.string(), **nulls)

    def read(names: Sequence[str] | None = None) -> pa.Table:
        # One thread, so that errors name their row, and one block, so that a text of any length fits.
        options = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(content), 1))
        return pa.csv.read_csv(pa.BufferReader(content), options, parse, convert)

    fix = f"is the delimiter {delimiter!r} right (--delimiter), and the quoting (--csv_quoting)?"
    with explain(pa.ArrowInvalid, f"{source}: cannot be read", fix):
        table, names = read(), file_format.column_names
        found = match_columns([clean_name(name) for name in table.column_names], wanted)
        if not names or all(found[field] for field in USUAL_COLUMNS if field in found):
            return arrow_table(source, table, wanted, first_row=2)
        if len(names) != table.num_columns:
            count = f"column_names gives {len(names)} names, but row 1 has {table.num_columns} columns"
            raise RecipeError(f"{source}: {count}")
        return arrow_table(source, read(names), wanted)


def read_json(path: Path, suffix: str, wanted: Wanted) -> Table:
    """Return one row for each object: of an array (in .json files), or one a line, numbered by line, blank ones skipped.

    A key that an object lacks is None there. Values stay plain Python objects, which Arrow and pandas would turn into
    others where a column mixes them.
    """
    source, text = str(path), read_text(path)
    is_array = suffix == ".json" and text.lstrip().startswith("[")
    place, item, records = "array", "item {} of the array" if is_array else "line {}", {}
    try:
        if is_array:
            records = dict(enumerate(json.loads(text), start=1))
        else:
            for number, line in enumerate(text.split("\n"), start=1):
                place = item.format(number)
                line = line.strip("\ufeff \t\r")  # files that were joined have byte-order marks in the middle
                if line.strip():
                    records[number] = json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = "an array of objects" if is_array else "one object a line"
        raise RecipeError(f"{source}: {place} is not JSON ({one_line(error)}): {hint} is needed") from error
    for number, record in records.items():
        if not isinstance(record, dict):
            what = f"{item.format(number)} is a JSON {type(record).__name__}, not an object"
            raise RecipeError(f"{source}: {what}: write {{...}} there")
    keys = list(dict.fromkeys(key for record in records.values() for key in record))
    positions = find_columns(source, keys, wanted, list(records))
    values = {field: [record.get(keys[i]) for record in records.values()] for field, i in positions.items()}
    return make_table(values, list(records))


def read_parquet(path: Path, wanted: Wanted) -> Table:
    content = read_bytes(path)
    with explain((pa.ArrowException, OSError), f"{path}: is not a complete Parquet file", "write it again"):
        table = pa.parquet.ParquetFile(pa.BufferReader(content)).read()
    try:
        features = datasets.Features.from_arrow_schema(table.schema)  # `datasets` notes them in files that it writes
    except Exception:  # a type that `datasets` has no feature for, or a note of another version
        features = {}
    return arrow_table(str(path), table, wanted, features)


def arrow_table(source: str, table: pa.Table, wanted: Wanted, features: Mapping = {}, first_row: int = 1) -> Table:
    """Return the wanted columns as Python values; of a ClassLabel, the names of its ids."""
    rows, values, label_names = range(first_row, first_row + len(table)), {}, None
    for field, position in find_columns(source, table.column_names, wanted, rows).items():
        name, column = table.column_names[position], table.column(position)
        # Bytes that are no text, or times that Python has no room for.
        errors = (ValueError, OverflowError, pa.ArrowException)
        with explain(errors, f"{source}: column {name!r} cannot be read", "write it again"):
            if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                column = column.cast(pa.large_string())  # strings that their writer did not mark as such
            cells = column.to_pylist()
        if isinstance(feature := features.get(name), datasets.ClassLabel):
            names = dict(enumerate(feature.names))
            cells = [names.get(cell) for cell in cells]  # -1 stands for no label
            label_names = list(feature.names) if field == "label" else label_names
        values[field] = cells
    return make_table(values, rows, label_names)


def dataset_table(source: str, dataset: datasets.Dataset, wanted: Wanted) -> Table:
    return arrow_table(source, dataset.with_format("arrow")[:], wanted, dataset.features)


def is_saved_dataset(path: Path) -> bool:
    """Return whether `save_to_disk` of `datasets` wrote the folder, as a Dataset or a DatasetDict."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def load_dataset(name: str, configuration: str | None = None) -> datasets.DatasetDict | datasets.Dataset:
    """Load a dataset of the hub, of a folder of files, or one that save_to_disk wrote."""
    is_saved, verbosity = is_saved_dataset(Path(name)), hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # no word on each retry: the error below says it once
    fix = "save it again with save_to_disk" if is_saved else "check the name, or give --train_file"
    try:
        # The hub, the network, the builder and the file formats each raise errors of their own.
        with explain(Exception, f"dataset {name!r} cannot be loaded", fix):
            return datasets.load_from_disk(name) if is_saved else datasets.load_dataset(name, configuration)
    finally:
        hub_logging.set_verbosity(verbosity)


def read_saved_dataset(path: Path, wanted: Wanted) -> Table:
    """Read one Dataset; a DatasetDict is for dataset_name."""
    if not is_saved_dataset(path):
        raise RecipeError(f"{path}: is a folder that `datasets` did not save: give a file, or --dataset_name {path}")
    dataset = load_dataset(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise RecipeError(f"{path}: holds several splits: give it as --dataset_name, or one of them: {splits}")
    return dataset_table(str(path), dataset, wanted)
