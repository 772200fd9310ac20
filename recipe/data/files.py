"""Files: CSV, TSV, JSON, Parquet and saved datasets in batches of rows, each cell as the file holds it."""

import codecs
import gzip
import io
import json
import os
import zlib
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from huggingface_hub.utils import logging as hub_logging

from recipe.arguments import DataArguments
from recipe.data.columns import USUAL_COLUMNS, Wanted, match_columns
from recipe.data.texts import unescape
from recipe.errors import RecipeError, as_recipe_error, first_line

BLOCK = 1 << 20  # bytes read at once


def check_readable(path: Path) -> None:
    """Raise RecipeError for a path that cannot be opened, or that can be read only once."""
    # ValueError: a NUL in the name.
    with as_recipe_error((OSError, ValueError), f"{str(path)[:200]}: cannot be read", "check the path"):
        if path.is_fifo() or path.is_char_device():
            raise ValueError("it is a pipe or a device, and is read twice: write it into a file first")
        path.open("rb").close()


class Utf8File(io.BufferedReader):
    """The bytes of a text file, unpacked where its name ends in .gz, without a byte-order mark, and known to be UTF-8."""

    def __init__(self, path: Path, leading: bytes = b""):
        """Open the file and skip the `leading` bytes, such as blank lines, at its start."""
        super().__init__(CheckedBytes(path), BLOCK)
        if self.peek(3).startswith(codecs.BOM_UTF8):
            self.read(3)
        while leading and self.peek(1)[:1] and self.peek(1)[:1] in leading:
            self.read(1)
        if not self.peek(1).strip(b" \t\r\n") and not self.peek(BLOCK).strip():
            raise RecipeError(f"{path}: the file is empty: give a file with at least one text")


class CheckedBytes(io.RawIOBase):
    """The unpacked bytes of a file; raises RecipeError, with the line, at the first that are not UTF-8."""

    def __init__(self, path: Path):
        self.path, self.decoder, self.line = path, codecs.getincrementaldecoder("utf-8")(), 1
        check_readable(path)
        self.file = (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        fix = "copy it again, or drop the .gz if it is not packed"
        with as_recipe_error((OSError, EOFError, zlib.error), f"{self.path}: is not a complete gzip file", fix):
            block = self.file.read(len(buffer))
        try:
            self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = self.line + error.object.count(b"\n", 0, error.start)
            byte = error.object[error.start]
            is_gzip = self.line == 1 and error.object.startswith(b"\x1f\x8b")
            fix = "it is gzip: give it a name that ends in .gz" if is_gzip else "save the file as UTF-8"
            raise RecipeError(f"{self.path}: line {line} is not UTF-8 (byte 0x{byte:02x}): {fix}") from error
        if self.line == 1 and block[:1000].count(b"\0") > len(block[:1000]) / 4:
            raise RecipeError(f"{self.path}: every second byte is NUL, as in UTF-16: save the file as UTF-8")
        self.line += block.count(b"\n")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


BATCH_ROWS = 2048
MAX_ARRAY = 1 << 27  # bytes of a JSON array, which is parsed in one piece
MAX_COLUMNS = 10_000


@dataclass(frozen=True)
class FileFormat:
    """How to read a file where its name and first row do not tell (field names as in DataArguments)."""

    delimiter: str | None = None
    csv_quoting: str = "auto"
    column_names: tuple[str, ...] | None = None
    max_row_mb: float = 16.0

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


def read_batches(path: Path, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield a file's rows: .csv, .tsv, .jsonl, .ndjson, .json (one object a line, or an array of objects) or .parquet, each
    also as .gz, or a folder that `save_to_disk` wrote for a Dataset; other names are read as CSV or TSV.

    Where `column_names` are given, the first row of a CSV file is a header only if it names the wanted texts and labels.
    """
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if os.path.isdir(path):  # which takes any name
        return dataset_batches(load_saved_dataset(path))
    if suffix == ".parquet":
        return parquet_batches(path)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return json_batches(path, suffix, file_format)
    return csv_batches(path, suffix, wanted, file_format)


def csv_batches(path: Path, suffix: str, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield the cells as strings; rows are numbered from 1, a header being row 1; blank lines do not count.

    An unquoted empty cell is None and a quoted one an empty text, which pandas does not tell apart; hence pyarrow, whose
    errors also name the row.
    """
    with Utf8File(path, leading=b"\r\n") as file:
        opening = file.peek().partition(b"\n")[0].decode("utf-8", "replace")
    marks = {".tsv": "", ".csv": ",\t;"}.get(suffix, "\t,;")
    guess = next((mark for mark in marks if mark in opening), "\t" if suffix == ".tsv" else ",")
    delimiter = (guess if file_format.delimiter is None else file_format.delimiter).replace("\\t", "\t")
    if len(delimiter) != 1 or not delimiter.isascii():
        raise RecipeError(f"delimiter is {delimiter!r}: give a single ASCII character, as in --delimiter ';'")
    quoted = {"minimal": True, "none": False, "auto": delimiter != "\t"}[file_format.csv_quoting]
    # A blank line is an empty value in a file of one column, and nothing at all elsewhere.
    options = {"delimiter": delimiter, "newlines_in_values": quoted, "ignore_empty_lines": delimiter in opening}
    parse = pa.csv.ParseOptions(quote_char='"' if quoted else False, **options)
    nulls = {"null_values": [""], "strings_can_be_null": True, "quoted_strings_can_be_null": False}
    convert = pa.csv.ConvertOptions(default_column_type=pa.string(), **nulls)

    def open_reader(file: Utf8File, block_size: int, names: Sequence[str] | None = None) -> pa.csv.CSVStreamingReader:
        # One thread, so that errors name their row.
        read = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=block_size)
        return pa.csv.open_csv(pa.PythonFile(file, "r"), read, parse, convert)

    fix = f"is the delimiter {delimiter!r} right (--delimiter), and the quoting (--csv_quoting)?"
    done = 0
    for block_size in (BLOCK, file_format.max_row):  # large blocks, which take memory, only where a row needs them
        try:
            names, first_row = None, 2
            if file_format.column_names:
                with Utf8File(path, leading=b"\r\n") as file:
                    first = open_reader(file, block_size).schema.names
                found = match_columns(first, wanted)
                if not all(found[field] for field in USUAL_COLUMNS if field in found):
                    names, first_row = file_format.column_names, 1
                    if len(names) != len(first):
                        counts = f"{len(names)} names, but row 1 has {len(first)} columns"
                        raise RecipeError(f"{path}: column_names gives {counts}")
            with Utf8File(path, leading=b"\r\n") as file:
                reader, skip = open_reader(file, block_size, names), done
                for block in reader:
                    new = block[skip:]
                    skip -= len(block) - len(new)
                    for part in (new[i : i + BATCH_ROWS] for i in range(0, len(new), BATCH_ROWS)):
                        rows = range(first_row + done, first_row + done + len(part))
                        yield Batch(reader.schema.names, [*map(unescape_column, part.columns)], rows)
                        done += len(part)
            return
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise RecipeError(f"{path}: cannot be read ({first_line(error)[:200]}): {fix}") from error
    large = f"a row of over {file_format.max_row / 1e6:g} MB, or a quote that is not closed"
    raise RecipeError(f"{path}: {large}: cut the text, or raise --max_row_mb; {fix}")


def unescape_column(column: pa.Array) -> pa.Array | list[str | None]:
    """Return the cells without the apostrophes that predict.py, or a spreadsheet, has put before formulas."""
    escaped = pa.compute.any(pa.compute.starts_with(column, "'")).as_py()
    return [*map(unescape, column.to_pylist())] if escaped else column


def json_batches(path: Path, suffix: str, file_format: FileFormat) -> Iterator[Batch]:
    """Yield one row for each object: of an array (in .json files), or one a line, numbered by line, blank ones skipped.

    A key that an object lacks is None there. Values stay plain Python objects, which Arrow and pandas would turn into
    others where a column mixes them.
    """
    with Utf8File(path) as file:
        if suffix == ".json" and file.peek().lstrip().startswith(b"["):
            content = file.read(MAX_ARRAY + 1)
            if len(content) > MAX_ARRAY:
                large = f"a JSON array of over {MAX_ARRAY >> 20} MB"
                raise RecipeError(f"{path}: {large}: write JSON lines, which are read in parts")
            records = parse_json(path, "array", content, "an array of objects")
            yield json_batch(path, "item {} of the array", dict(enumerate(records, start=1)))
            return
        records, number, size = {}, 0, 0
        while line := file.readline(file_format.max_row + 1):
            number += 1
            if len(line) > file_format.max_row:
                large = f"line {number} has over {file_format.max_row / 1e6:g} MB"
                raise RecipeError(f"{path}: {large}: cut the text, or raise --max_row_mb")
            if line := line.strip(b"\xef\xbb\xbf \t\r\n"):  # joined files have byte-order marks in the middle
                records[number] = parse_json(path, f"line {number}", line, "one object a line")
            size += len(line)
            if len(records) == BATCH_ROWS or size > file_format.max_row:
                yield json_batch(path, "line {}", records)
                records, size = {}, 0
        yield json_batch(path, "line {}", records)


def parse_json(path: Path, place: str, text: bytes, hint: str) -> Any:
    with as_recipe_error((ValueError, RecursionError), f"{path}: {place} is not JSON", f"{hint} is needed"):
        return json.loads(text.decode())  # of bytes, `loads` would guess the encoding


def json_batch(path: Path, place: str, records: dict[int, Any]) -> Batch:
    for number, record in records.items():
        if not isinstance(record, dict):
            what = f"{place.format(number)} is a JSON {type(record).__name__}, not an object"
            raise RecipeError(f"{path}: {what}: write {{...}} there")
    names = list(dict.fromkeys(key for record in records.values() for key in record))
    if len(names) > MAX_COLUMNS:
        raise RecipeError(f"{path}: over {MAX_COLUMNS:,} different keys: write texts and labels under one key each")
    return Batch(names, [[record.get(name) for record in records.values()] for name in names], list(records))


def parquet_batches(path: Path) -> Iterator[Batch]:
    """Yield the rows of a Parquet file, with the features that `datasets` notes in those that it writes."""
    check_readable(path)
    errors = (pa.ArrowException, OSError, EOFError, zlib.error)
    with as_recipe_error(errors, f"{path}: is not a complete Parquet file", "write it again"):
        packed = path.suffix.lower() == ".gz"
        file = pa.parquet.ParquetFile(pa.BufferReader(gzip.decompress(path.read_bytes())) if packed else path)
        try:
            features = datasets.Features.from_arrow_schema(file.schema_arrow)
        except Exception:  # a type that `datasets` has no feature for, or a note of another version
            features = {}
        # Small batches, since a dictionary may hide how long texts are.
        yield from arrow_batches(file.iter_batches(BATCH_ROWS // 8), features)


def dataset_batches(dataset: datasets.Dataset) -> Iterator[Batch]:
    """Yield the rows of a Dataset."""
    return arrow_batches(dataset.with_format("arrow").iter(BATCH_ROWS), dataset.features)


def arrow_batches(tables: Iterable[pa.Table | pa.RecordBatch], features: Mapping[str, Any]) -> Iterator[Batch]:
    first_row = 1
    for table in tables:
        yield Batch(table.schema.names, table.columns, range(first_row, first_row + len(table)), features)
        first_row += len(table)


def is_saved_dataset(path: Path) -> bool:
    """Return whether `save_to_disk` of `datasets` wrote the folder, as a Dataset or a DatasetDict."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def load_dataset(name: str, configuration: str | None = None) -> datasets.DatasetDict | datasets.Dataset:
    """Load a dataset of the hub, of a folder of files, or one that save_to_disk wrote."""
    is_saved, verbosity = is_saved_dataset(Path(name)), hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # not a line for each retry: the error below is enough
    fix = "save it again with save_to_disk" if is_saved else "check the name, or give --train_file"
    try:
        # The hub, the network, the builder and the file formats each raise errors of their own.
        with as_recipe_error(Exception, f"dataset {name!r} cannot be loaded", fix):
            return datasets.load_from_disk(name) if is_saved else datasets.load_dataset(name, configuration)
    finally:
        hub_logging.set_verbosity(verbosity)


def load_saved_dataset(path: Path) -> datasets.Dataset:
    """Load one Dataset; a DatasetDict is for dataset_name."""
    if not is_saved_dataset(path):
        raise RecipeError(f"{path}: is a folder that `datasets` did not save: give a file, or --dataset_name {path}")
    dataset = load_dataset(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise RecipeError(f"{path}: holds several splits: give it as --dataset_name, or one of them: {splits}")
    return dataset
