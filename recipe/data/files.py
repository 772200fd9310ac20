"""Files of any format, in batches of rows, each cell as the file holds it: which reader takes which file."""

import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from huggingface_hub.utils import logging as hub_logging

from recipe.data import batches
from recipe.data.batches import Batch, FileFormat
from recipe.data.columns import Wanted, clean_name, named_columns
from recipe.data.csv_files import check_first_row, csv_batches, guess_delimiter, is_header, sample_rows
from recipe.data.first_bytes import UNPACKING_ERRORS, OpenFile, open_unpacked
from recipe.data.folders import folder_batches
from recipe.data.json_files import json_batches, nested
from recipe.data.line_files import fasttext_batches, kind_of_lines, line_batches, trec_batches
from recipe.data.text_files import Utf8File, split_lines
from recipe.errors import RecipeError, as_recipe_error

__all__ = ["Batch", "FileFormat", "dataset_batches", "is_saved_dataset", "load_dataset", "read_batches"]

logger = logging.getLogger(__name__)

JSON = (".jsonl", ".ndjson", ".json")
BINARY = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow"}
JSON_START = re.compile(rb'\s*(\[\s*)?\{\s*"[^"]*"\s*:')
SAMPLE = 1 << 16  # bytes of a text file that tell its format


def read_batches(path: Path, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield a file's rows: of CSV, TSV, JSON, fastText, TREC or one text a line, Parquet, Arrow or Excel; each also packed.

    A folder is one that `save_to_disk` wrote for a Dataset, or holds a folder of texts for each label. Where `column_names`
    are given, the first row of a CSV file or workbook is a header only if it names the wanted texts and labels.
    """
    if os.path.isdir(path):  # which takes any name
        found = (
            dataset_batches(load_saved_dataset(path)) if is_saved_dataset(path) else folder_batches(path, file_format)
        )
    else:
        found = file_batches(path, wanted, file_format)
    dotted = [name for name in named_columns(wanted).values() if "." in name]
    return with_nested_fields(found, dotted) if dotted else found


def file_batches(path: Path, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    opened = open_unpacked(path)
    kind, suffix = opened.kind or BINARY.get(opened.suffix), opened.suffix
    if kind == "Excel":
        return excel_batches(path, opened, wanted, file_format)
    if kind:
        return (parquet_batches if kind == "Parquet" else arrow_file_batches)(path, opened)
    opened.file.close()
    with Utf8File(path, file_format.encoding) as file:
        sample = file.read(SAMPLE)
        if not sample.strip() and not file.read(SAMPLE).strip():
            raise RecipeError(f"{path}: the file is empty: give a file with at least one text")
    if suffix in JSON or (suffix not in (".csv", ".tsv") and JSON_START.match(sample)):
        return json_batches(path, wanted, file_format)
    lines = [line for line in split_lines(sample.decode(errors="replace")) if line.strip()] or [""]
    names, is_plain = file_format.column_names, file_format.delimiter is None
    if names is None and is_plain and (kind := kind_of_lines(lines[:-1] or lines)):
        logger.info("%s: is read as %s, whose labels stand in the lines of their texts", path, kind)
        return {"fastText": fasttext_batches, "TREC": trec_batches}[kind](path, file_format)
    if names and len(names) == 1 and is_plain and file_format.csv_quoting in ("auto", "none"):
        first = sample_rows(lines[:1], guess_delimiter(lines, suffix, file_format), file_format.csv_quoting)[0]
        if len(first) == 1 or not is_header(first, wanted):
            has_header = is_header([lines[0]], wanted)
            if not has_header:
                check_first_row(path, names, [[lines[0]]], wanted)
            return line_batches(path, names[0], has_header, file_format)
    return csv_batches(path, suffix, wanted, file_format)


def with_nested_fields(found: Iterable[Batch], dotted: list[str]) -> Iterator[Batch]:
    """Yield the batches with one column more for each wanted name, such as `review.text`, of a field in their objects."""
    for batch in found:
        names, columns = list(batch.names), list(batch.columns)
        for name in dotted:
            first, _, rest = name.partition(".")
            if name in map(clean_name, batch.names) or first not in batch.names:
                continue
            column = batch.columns[batch.names.index(first)]
            if isinstance(column, list):
                cells = [nested(cell, rest) for cell in column]
                is_field = any(cell is not None for cell in cells)
            else:
                try:
                    cells, is_field = pa.compute.struct_field(column, rest.split(".")), True
                except (pa.ArrowException, ValueError, TypeError):  # no struct, or one without this field
                    is_field = False
            if is_field:
                names.append(name)
                columns.append(cells)
        yield batch._replace(names=names, columns=columns)


def excel_batches(path: Path, opened: OpenFile, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield the rows of the only sheet that has some, cells as CSV would show them, numbered as in the sheet."""
    as_csv = "save the sheet as CSV (UTF-8)"
    try:
        import python_calamine
    except ImportError:
        install = "pip install 'gpt2-classifier-recipe[excel]'"
        raise RecipeError(f"{path}: is an Excel workbook: {install}, or {as_csv}") from None
    # Its errors are of many kinds, and panics of Rust code derive from BaseException alone.
    with as_recipe_error(Exception, f"{path}: is not a complete Excel workbook", as_csv):
        book = python_calamine.load_workbook(io.BytesIO(opened.file.read()))
        sheets = {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in book.sheet_names}
    opened.file.close()
    full = {name: rows for name, rows in sheets.items() if any(cell != "" for row in rows for cell in row)}
    if len(full) != 1:
        what = f"has {len(full)} sheets with rows ({', '.join(full)})" if full else "has no rows"
        raise RecipeError(f"{path}: {what}: keep the one to read, or {as_csv}")
    (cells,) = full.values()
    rows = {number: [*map(shown_cell, row)] for number, row in enumerate(cells, start=1) if any(x != "" for x in row)}
    first = [cell or "" for cell in next(iter(rows.values()))]
    names = file_format.column_names
    if names and not is_header(first, wanted):
        if len(names) != len(first):
            raise RecipeError(f"{path}: column_names gives {len(names)} names, but row 1 has {len(first)} columns")
        check_first_row(path, names, [*zip(*rows.values(), strict=True)], wanted)
    else:
        names = first
        del rows[next(iter(rows))]
    numbers = list(rows)
    for start in range(0, len(numbers), batches.BATCH_ROWS):
        part = numbers[start : start + batches.BATCH_ROWS]
        columns = [list(column) for column in zip(*(rows[number] for number in part), strict=True)]
        yield Batch(list(names), columns, part)


def shown_cell(cell: Any) -> str | None:
    """Return a cell of a workbook as CSV would show it, None for an empty one; all numbers are floats there."""
    if cell == "":
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def parquet_batches(path: Path, opened: OpenFile) -> Iterator[Batch]:
    """Yield the rows of a Parquet file, with the features that `datasets` notes in those that it writes."""
    with opened.file, as_recipe_error(UNPACKING_ERRORS, f"{path}: is not a complete Parquet file", "write it again"):
        file = pa.parquet.ParquetFile(pa.BufferReader(opened.file.read()) if opened.packing else path)
        # Small batches, since a dictionary may hide how long texts are.
        yield from arrow_batches(file.iter_batches(batches.BATCH_ROWS // 8), features_of(file.schema_arrow))


def arrow_file_batches(path: Path, opened: OpenFile) -> Iterator[Batch]:
    """Yield the rows of an Arrow file or stream, which Feather files and the files of saved Datasets are too."""
    with opened.file, as_recipe_error(UNPACKING_ERRORS, f"{path}: is not a complete Arrow file", "write it again"):
        is_stream = not opened.file.peek(8).startswith(b"ARROW1")
        source = pa.BufferReader(opened.file.read()) if opened.packing else pa.memory_map(str(path))
        file = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        whole = file if is_stream else map(file.get_batch, range(file.num_record_batches))
        step = batches.BATCH_ROWS
        parts = (batch[i : i + step] for batch in whole for i in range(0, len(batch), step))
        yield from arrow_batches(parts, features_of(file.schema))


def features_of(schema: pa.Schema) -> Mapping[str, Any]:
    """Return what `datasets` knows of the columns."""
    try:
        return datasets.Features.from_arrow_schema(schema)
    except Exception:  # a type that `datasets` has no feature for, or a note of another version
        return {}


def dataset_batches(dataset: datasets.Dataset) -> Iterator[Batch]:
    """Yield the rows of a Dataset."""
    return arrow_batches(dataset.with_format("arrow").iter(batches.BATCH_ROWS), dataset.features)


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


def files_of_dataset(name: str, configuration: str | None = None) -> dict[str, list[str]]:
    """Return the files of each split of a dataset that is a folder, or a repository, of CSV or JSON files; else {}.

    `datasets` says which file is of which split, but would read "001" as a number and "N/A" as a missing cell.
    """
    if is_saved_dataset(Path(name)):
        return {}
    with as_recipe_error(Exception, f"dataset {name!r} cannot be loaded", "check the name, or give --train_file"):
        builder = datasets.load_dataset_builder(name, configuration)
        kind = type(builder.config).__name__
        if kind == "TextConfig" and os.path.isdir(name):  # perhaps a folder of texts for each label
            return {"train": [name]}
        declared = (builder.info.features or {}).values()  # of its card, or of what was loaded before
        if kind not in ("CsvConfig", "JsonConfig") or any(isinstance(x, datasets.ClassLabel) for x in declared):
            return {}
        download = datasets.DownloadManager(dataset_name=name).download
        return {str(split): download(list(files)) for split, files in builder.config.data_files.items()}


def load_saved_dataset(path: Path) -> datasets.Dataset:
    """Load one Dataset; a DatasetDict is for dataset_name."""
    dataset = load_dataset(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise RecipeError(f"{path}: holds several splits: give it as --dataset_name, or one of them: {splits}")
    return dataset
