"""JSON lines, Parquet, gzip and the folders that `datasets` saves, read into tables; CSV has a module of its own."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet

from recipe.data.columns import Table, clean_name
from recipe.errors import RecipeError, one_line
from recipe.model.loading import quiet_loading

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


def read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise RecipeError(
            f"{path}: is no whole gzip file ({one_line(error)}): copy it again, or drop the .gz if it is not packed"
        ) from error


def decode_text(source: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise RecipeError(f"{source}: line {line} is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8") from error
    if not text.strip("\ufeff \t\r\n"):
        raise RecipeError(f"{source}: the file is empty: give a file with at least one text")
    return text


def parse_json_lines(source: str, text: str) -> Table:
    """One JSON object a line, rows numbered by line; blank lines are skipped; a key that a line lacks is None there."""
    records = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip("\ufeff \t\r")  # a mark in the middle: files that were put together
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(
                f"{source}: line {number} is not JSON ({one_line(error)}): one object a line is needed"
            ) from error
        if not isinstance(record, dict):
            raise RecipeError(
                f"{source}: line {number} is a JSON {type(record).__name__}, not an object: write one {{...}} a line"
            )
        records[number] = record
    keys = list(dict.fromkeys(key for record in records.values() for key in record))
    # Plain objects, never a frame: pandas would turn integers beside a null into floats.
    return Table(
        columns=[clean_name(key) for key in keys],
        rows=list(records),
        cells=lambda i: [record.get(keys[i]) for record in records.values()],
        label_names={},
    )


def parse_parquet(source: str, content: bytes) -> Table:
    try:
        table = pa.parquet.ParquetFile(pa.BufferReader(content)).read()
    except (pa.ArrowException, OSError) as error:
        raise RecipeError(f"{source}: is no whole Parquet file ({one_line(error)[:200]}): write it again") from error
    try:
        features = datasets.Features.from_arrow_schema(table.schema)  # what `datasets` notes in files that it writes
    except Exception:  # a type that `datasets` has no feature for, or a note of another version
        features = {}
    return arrow_table(source, table, features)


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder, as a Dataset or a DatasetDict."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def load_saved_dataset(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    try:
        with quiet_loading():
            return datasets.load_from_disk(str(path))
    except Exception as error:  # files that lack, JSON and Arrow that broke: each raises its own
        raise RecipeError(
            f"{path}: the saved dataset cannot be loaded ({one_line(error)[:200]}): save it again with save_to_disk"
        ) from error


def read_saved_dataset(path: Path) -> Table:
    """One Dataset; a DatasetDict is for dataset_name."""
    if not is_saved_dataset(path):
        raise RecipeError(f"{path}: is a folder that `datasets` did not save: give a file, or --dataset_name {path}")
    dataset = load_saved_dataset(path)
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise RecipeError(f"{path}: holds several splits: give it as --dataset_name, or one of them: {splits}")
    return dataset_table(str(path), dataset)


def dataset_table(source: str, dataset: datasets.Dataset) -> Table:
    return arrow_table(source, dataset.with_format("arrow")[:], dataset.features)


def arrow_table(source: str, table: pa.Table, features: dict[str, Any]) -> Table:
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
        rows=range(1, len(table) + 1),
        cells=cells,
        label_names={i: list(x.names) for i, x in enumerate(declared) if isinstance(x, datasets.ClassLabel)},
    )
