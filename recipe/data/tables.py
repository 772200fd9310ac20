"""Tables: CSV, TSV, JSON, Parquet, gzip and saved datasets, every cell as the file holds it, every row with its number."""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from huggingface_hub.utils import logging as hub_logging

from recipe.errors import RecipeError, one_line


@dataclass(frozen=True)
class Table:
    """The rows of a file of any format; only the columns that are used are turned into Python values.

    columns: the names of the columns, cleaned; a name may occur twice.
    rows: the number of each row in its file.
    cells: gives the values of the column at a position, None where one is missing.
    label_names: by position of the column, the names that its whole numbers stand for (`ClassLabel`).
    """

    columns: list[str]
    rows: Sequence[int]
    cells: Callable[[int], list[Any]]
    label_names: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class FileFormat:
    """How to read a delimited file where its name and first row do not tell (field names as in DataArguments)."""

    delimiter: str | None = None
    csv_quoting: str = "auto"
    column_names: tuple[str, ...] | None = None


def clean_name(name: Any) -> str:
    """Return a column's name without the spaces and the byte-order mark that exports leave around it."""
    return str(name).strip(" \t\r\n\v\f\u00a0\ufeff")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where its name ends in .gz."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or one_line(error)
        raise RecipeError(f"{str(path)[:200]}: cannot be read ({reason}): check the path") from error
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise RecipeError(
            f"{path}: is not a complete gzip file ({one_line(error)}): copy it again, or drop the .gz if it is not packed"
        ) from error


def decode_text(source: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise RecipeError(f"{source}: line {line} is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8") from error
    if not text.strip("\ufeff \t\r\n"):
        raise RecipeError(f"{source}: the file is empty: give a file with at least one text")
    return text


def parse_csv(
    source: str, text: str, suffix: str, file_format: FileFormat, is_header: Callable[[list[str]], bool]
) -> Table:
    """Return the cells as strings; rows are numbered from 1, a header being row 1; blank lines do not count.

    An unquoted empty cell is None and a quoted one an empty text, which pandas does not tell apart; hence pyarrow, whose
    errors also name the row. Where `is_header` refuses the first row, `column_names` are put above it.

    Raises:
        RecipeError: rows of different lengths (with their numbers), or a delimiter or column_names that do not fit.
    """
    text = text.lstrip("\r\n")
    first_line = text.partition("\n")[0]
    delimiter = (file_format.delimiter or guess_delimiter(suffix, first_line)).replace("\\t", "\t")
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

    try:
        table, names = read(), file_format.column_names
        if not names or is_header([clean_name(name) for name in table.column_names]):
            return arrow_table(source, table, first_row=2)
        if len(names) != table.num_columns:
            raise RecipeError(
                f"{source}: column_names gives {len(names)} names, but row 1 has {table.num_columns} columns"
            )
        return arrow_table(source, read(names))
    except pa.ArrowInvalid as error:
        raise RecipeError(
            f"{source}: {one_line(error)[:200]}: is the delimiter {delimiter!r} right (--delimiter), and the quoting (--csv_quoting)?"
        ) from error


def guess_delimiter(suffix: str, first_line: str) -> str:
    """Return tab for .tsv and for a first line with a tab but no comma; semicolon likewise; comma otherwise."""
    if suffix == ".tsv" or (suffix != ".csv" and "\t" in first_line):
        return "\t"
    if "," not in first_line:
        return next((mark for mark in "\t;" if mark in first_line), ",")
    return ","


def parse_json(source: str, text: str, suffix: str) -> Table:
    """Return one row for each object: of an array (in .json files), or one a line, numbered by line, blank ones skipped.

    A key that an object lacks is None there. Values stay plain Python objects: in a frame, pandas would turn integers
    beside a null into floats.
    """
    is_array = suffix == ".json" and text.lstrip().startswith("[")
    place = "array" if is_array else "line"
    records: dict[int, Any] = {}
    try:
        if is_array:
            records = dict(enumerate(json.loads(text), start=1))
        else:
            for number, line in enumerate(text.split("\n"), start=1):
                place = f"line {number}"
                line = line.strip("\ufeff \t\r")  # files that were joined have byte-order marks in the middle
                if line.strip():
                    records[number] = json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = "an array of objects" if is_array else "one object a line"
        raise RecipeError(f"{source}: {place} is not JSON ({one_line(error)}): {hint} is needed") from error
    for number, record in records.items():
        if not isinstance(record, dict):
            place = f"item {number} of the array" if is_array else f"line {number}"
            raise RecipeError(
                f"{source}: {place} is a JSON {type(record).__name__}, not an object: write {{...}} there"
            )
    keys = list(dict.fromkeys(key for record in records.values() for key in record))
    return Table(
        columns=[clean_name(key) for key in keys],
        rows=list(records),
        cells=lambda position: [record.get(keys[position]) for record in records.values()],
    )


def parse_parquet(source: str, content: bytes) -> Table:
    try:
        table = pa.parquet.ParquetFile(pa.BufferReader(content)).read()
    except (pa.ArrowException, OSError) as error:
        raise RecipeError(
            f"{source}: is not a complete Parquet file ({one_line(error)[:200]}): write it again"
        ) from error
    try:
        features = datasets.Features.from_arrow_schema(table.schema)  # `datasets` notes them in files that it writes
    except Exception:  # a type that `datasets` has no feature for, or a note of another version
        features = {}
    return arrow_table(source, table, features)


def is_saved_dataset(path: Path) -> bool:
    """Return whether `save_to_disk` of `datasets` wrote the folder, as a Dataset or a DatasetDict."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def load_dataset(name: str, configuration: str | None = None) -> datasets.DatasetDict | datasets.Dataset:
    """Load a dataset of the hub, of a folder of files, or one that save_to_disk wrote."""
    is_saved, verbosity = is_saved_dataset(Path(name)), hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # no word on each retry: the error below says it once
    try:
        return datasets.load_from_disk(name) if is_saved else datasets.load_dataset(name, configuration)
    except Exception as error:  # the hub, the network, the builder and the file formats each raise their own
        fix = "save it again with save_to_disk" if is_saved else "check the name, or give --train_file"
        raise RecipeError(f"dataset {name!r} cannot be loaded ({one_line(error)[:200]}): {fix}") from error
    finally:
        hub_logging.set_verbosity(verbosity)


def read_saved_dataset(path: Path) -> Table:
    """Read one Dataset; a DatasetDict is for dataset_name."""
    if not is_saved_dataset(path):
        raise RecipeError(f"{path}: is a folder that `datasets` did not save: give a file, or --dataset_name {path}")
    dataset = load_dataset(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise RecipeError(f"{path}: holds several splits: give it as --dataset_name, or one of them: {splits}")
    return dataset_table(str(path), dataset)


def dataset_table(source: str, dataset: datasets.Dataset) -> Table:
    return arrow_table(source, dataset.with_format("arrow")[:], dataset.features)


def arrow_table(source: str, table: pa.Table, features: Mapping[str, Any] = {}, first_row: int = 1) -> Table:
    def cells(position: int) -> list[Any]:
        column = table.column(position)
        try:
            if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                column = column.cast(pa.large_string())  # strings that their writer did not mark as such
            return column.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:  # bytes, or times that Python has no room for
            name = table.column_names[position]
            raise RecipeError(
                f"{source}: column {name!r} cannot be read ({one_line(error)}): write it again"
            ) from error

    declared = [features.get(name) for name in table.column_names]
    return Table(
        columns=[clean_name(name) for name in table.column_names],
        rows=range(first_row, first_row + len(table)),
        cells=cells,
        label_names={i: list(x.names) for i, x in enumerate(declared) if isinstance(x, datasets.ClassLabel)},
    )
