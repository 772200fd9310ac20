"""JSON files: JSON lines, and documents in the shapes that are usual for tables."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.data import batches
from recipe.data.batches import Batch, FileFormat, batch_of_records
from recipe.data.columns import Wanted, match_columns, named_columns
from recipe.data.text_files import Utf8File
from recipe.errors import RecipeError, as_recipe_error

MAX_DOCUMENT = 1 << 27  # bytes of a JSON document, which is parsed in one piece
MAX_COLUMNS = 10_000
SPLIT_NAME = re.compile(r"(^|_)(train|training|validation|valid|val|dev|test)($|_)", re.IGNORECASE)
CONSTANTS = {"Infinity": float("inf"), "-Infinity": float("-inf")}  # NaN is how pandas writes a missing cell


def json_batches(path: Path, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield one row for each object: one a line, numbered by line, blank ones skipped, or of a document, numbered from 1.

    A key that an object lacks is None there. Values stay plain Python objects, which Arrow and pandas would turn into
    others where a column mixes them.
    """
    with Utf8File(path, file_format.encoding) as file:
        whole = is_document(file)
    with Utf8File(path, file_format.encoding) as file:
        if whole:
            content = file.read(MAX_DOCUMENT + 1)
            if len(content) > MAX_DOCUMENT:
                large = f"a JSON document of over {MAX_DOCUMENT >> 20} MB"
                raise RecipeError(f"{path}: {large}: write JSON lines, which are read in parts")
            place = "array" if content.lstrip().startswith(b"[") else "document"
            document = parse_json(path, place, content, "an array of objects, or one object a line, is needed")
            items, splits = records_of(path, document, wanted)
            if len(set(splits)) > 1 and "split" not in wanted:  # which only train_file asks for
                holds = f"holds the splits {', '.join(dict.fromkeys(splits))}"
                raise RecipeError(f"{path}: {holds}: write the one to read into a file of its own")
            records = as_objects(path, f"item {{}} of the {place}", dict(enumerate(items, start=1)), file_format)
            named = {n: {"split": split, **records[n]} for n, split in enumerate(splits, start=1)}
            yield json_batch(path, named or records)
            return
        records, number, size = {}, 0, 0
        while line := file.readline(file_format.max_row + 1):
            number += 1
            if len(line) > file_format.max_row:
                large = f"line {number} has over {file_format.max_row / 1e6:g} MB"
                raise RecipeError(f"{path}: {large}: cut the text, or raise --max_row_mb")
            if line := line.strip(b"\xef\xbb\xbf \t\r\n"):  # joined files have byte-order marks in the middle
                records[number] = parse_json(path, f"line {number}", line, "one object a line is needed")
            size += len(line)
            if len(records) == batches.BATCH_ROWS or size > file_format.max_row:
                yield json_batch(path, as_objects(path, "line {}", records, file_format))
                records, size = {}, 0
        yield json_batch(path, as_objects(path, "line {}", records, file_format))


def is_document(file: Utf8File) -> bool:
    """Return whether a file holds one JSON value, not one a line: that is its only line, or its first line is none."""

    def next_line() -> bytes:
        return next((line for line in iter(lambda: file.readline(MAX_DOCUMENT + 1), b"") if line.strip()), b"")

    first, second = next_line(), next_line()
    return not second or (not is_json(first) and (first.lstrip().startswith(b"[") or not is_json(second)))


def is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except (ValueError, RecursionError):
        return False
    return True


def parse_json(path: Path, place: str, text: bytes, hint: str) -> Any:
    with as_recipe_error((ValueError, RecursionError), f"{path}: {place} is not JSON", hint):
        # Of bytes, `loads` would guess the encoding.
        return json.loads(text.decode(), parse_constant=CONSTANTS.get)


def records_of(path: Path, document: Any, wanted: Wanted) -> tuple[list[Any], list[str]]:
    """Return the records of a document, and the split of each, if it names any.

    It is an array, an object that holds one, or one for each split, one of columns as pandas and other tools write them, or a
    single record.
    """
    if isinstance(document, list):
        return document, []
    if not isinstance(document, dict):
        what = f"holds a single JSON {type(document).__name__}"
        raise RecipeError(f"{path}: {what}: an array of objects, or one object a line, is needed")
    text = match_columns(list(document), wanted).get("text")
    if isinstance(nested(document, text or named_columns(wanted).get("text", "")), str):
        return [document], []
    columns, data = document.get("columns"), document.get("data")
    if isinstance(columns, list) and isinstance(data, list):  # pandas, orient="split"
        return [dict(zip(columns, row, strict=False)) if isinstance(row, list) else row for row in data], []
    tables = {name: value for name, value in document.items() if is_table(value)}
    if tables and (len(tables) == 1 or all(map(SPLIT_NAME.search, tables))):
        splits = [name for name, records in tables.items() for _ in records if SPLIT_NAME.search(name)]
        return [record for records in tables.values() for record in records], splits
    if tables:
        what = f"is an object of several arrays ({', '.join(list(tables)[:8])})"
        raise RecipeError(f"{path}: {what}: write the one to read into a file of its own")
    values = list(document.values())
    if values and all(isinstance(value, list) for value in values):
        lengths = {name: len(value) for name, value in document.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name}: {length}" for name, length in list(lengths.items())[:8])
            raise RecipeError(f"{path}: is an object of columns of different lengths ({shown}): write them again")
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)], []
    if values and all(isinstance(value, dict) for value in values):
        if text or all(key.isdecimal() for key in values[0]):  # pandas, orient="columns": each by row
            rows = dict.fromkeys(key for value in values for key in value)
            return [{name: cells.get(row) for name, cells in document.items()} for row in rows], []
        return values, []  # pandas, orient="index": records by name
    return [document], []


def is_table(value: Any) -> bool:
    """Return whether a value is an array of records, as objects or lists."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict | list) for item in value)


def nested(record: Any, name: str) -> Any:
    """Return the value of a record by its name, or by that of a field in an object of it, such as `review.text`.

    A list of one object counts as that object.
    """
    if isinstance(record, list) and len(record) == 1:
        record = record[0]
    if not isinstance(record, dict) or name in record:
        return record.get(name) if isinstance(record, dict) else None
    first, _, rest = name.partition(".")
    return nested(record.get(first), rest) if rest else None


def as_objects(path: Path, place: str, records: dict[int, Any], file_format: FileFormat) -> dict[int, dict[str, Any]]:
    """Return records as objects; those that are lists, or single texts, take their names from column_names."""
    names, objects = file_format.column_names, {}
    for number, record in records.items():
        if isinstance(record, dict):
            objects[number] = record
            continue
        what = f"{path}: {place.format(number)} is a JSON {type(record).__name__}, not an object"
        is_row = isinstance(record, list) or (isinstance(record, str) and len(names or [""]) == 1)
        if not is_row:
            raise RecipeError(f"{what}: write {{...}} there")
        row = record if isinstance(record, list) else [record]
        if not names:
            raise RecipeError(f"{what}: name its values, as in --column_names text{' label' * (len(row) > 1)}")
        if len(row) != len(names):
            raise RecipeError(f"{what}, and has {len(row)} values, but column_names gives {len(names)} names")
        objects[number] = dict(zip(names, row, strict=True))
    return objects


def json_batch(path: Path, records: dict[int, dict[str, Any]]) -> Batch:
    batch = batch_of_records(records)
    if len(batch.names) > MAX_COLUMNS:
        raise RecipeError(f"{path}: over {MAX_COLUMNS:,} different keys: write texts and labels under one key each")
    return batch
