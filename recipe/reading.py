"""Files of texts and labels -> rows: CSV, TSV and JSON lines, checked before anything is computed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from recipe.errors import RecipeError, one_line

TEXT_COLUMNS = ("text", "sms", "message", "sentence", "content", "review", "body", "document", "question", "title")
LABEL_COLUMNS = ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class FileFormat:
    """How to read a delimited file where its name and first row do not tell (field names as in DataArguments)."""

    delimiter: str | None = None
    csv_quoting: str = "auto"
    column_names: tuple[str, ...] | None = None


def read_file(
    path: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    file_format: FileFormat = FileFormat(),
    needs_label: bool = True,
) -> pd.DataFrame:
    """Reads a .csv, .tsv, .jsonl, .ndjson or .json (one object a line) file; other names are read as CSV or TSV.

    Returns:
        A frame with `text` and, if needs_label, `label`, as the file holds them (None where it holds nothing), and
        `row`: JSON lines by line; CSV by row, the header being row 1 (lines that are blank do not count, and a cell of
        several lines counts once).

    Raises:
        RecipeError: missing, empty or unreadable file, non-UTF-8 bytes (line), broken line (line), or missing column.
    """
    path = Path(path)
    text = decode_file(path)
    if path.suffix.lower() in JSON_SUFFIXES:
        frame = parse_json_lines(path, text)
    else:
        frame = parse_delimited(path, text, text_column, label_column, file_format, needs_label)
    if frame.empty:
        raise RecipeError(f"{path}: no rows under the header: give a file with at least one text")
    columns = list(frame.columns)
    found = {"text": find_column(columns, text_column, TEXT_COLUMNS, "text_column", path)}
    if needs_label:
        found["label"] = find_column(columns, label_column, LABEL_COLUMNS, "label_column", path)
    cells = {name: [clean_text(cell) for cell in frame[column]] for name, column in found.items()}
    return pd.DataFrame({**cells, "row": frame.index}, dtype=object)


def clean_text(text: Any) -> Any:
    """Joins surrogate pairs and puts U+FFFD for lone surrogates (JSON escapes can hold them, UTF-8 cannot)."""
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decode_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise RecipeError(f"{path}: line {line} is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8") from error
    if not text.strip():
        raise RecipeError(f"{path}: the file is empty: give a file with at least one text")
    return text


def parse_json_lines(path: Path, text: str) -> pd.DataFrame:
    """One JSON object a line, indexed by line number; blank lines are skipped; a key that a line lacks is None there."""
    records = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(
                f"{path}: line {number} is not JSON ({one_line(error)}): one object a line is needed"
            ) from error
        if not isinstance(record, dict):
            raise RecipeError(
                f"{path}: line {number} is a JSON {type(record).__name__}, not an object: write one {{...}} a line"
            )
        records[number] = record
    # Plain objects: pandas would turn integers beside a null into floats.
    columns = dict.fromkeys(key for record in records.values() for key in record)
    cells = {key: [record.get(key) for record in records.values()] for key in columns}
    return pd.DataFrame(cells, index=list(records), dtype=object)


def parse_delimited(
    path: Path, text: str, text_column: str | None, label_column: str | None, file_format: FileFormat, needs_label: bool
) -> pd.DataFrame:
    """CSV or TSV, every cell as it is written: no number parsing, and only an unquoted empty cell is missing.

    Indexed by row, the first being 1; lines that are blank do not count.
    """
    text = text.lstrip("\r\n")
    delimiter = (file_format.delimiter or guess_delimiter(path, text)).replace("\\t", "\t")
    if len(delimiter) != 1 or not delimiter.isascii():
        raise RecipeError(f"delimiter is {delimiter!r}: give a single ASCII character, as in --delimiter ';'")
    quoting = file_format.csv_quoting
    quoted = quoting == "minimal" or (quoting == "auto" and delimiter != "\t")
    first_row = parse_csv(path, text.partition("\n")[0] + "\n", delimiter, quoted=False, names=None).column_names
    first_row = [cell.strip('" ') if quoted else cell.strip() for cell in first_row]
    # A header is a first row that holds the columns we look for; a file without one needs column_names.
    wanted = [(text_column, TEXT_COLUMNS)] + ([(label_column, LABEL_COLUMNS)] if needs_label else [])
    has_header = all(match_column(first_row, name, candidates) for name, candidates in wanted)
    names = None
    if not has_header and file_format.column_names:
        names = list(file_format.column_names)
        if len(names) != len(first_row):
            raise RecipeError(f"{path}: column_names gives {len(names)} names, but row 1 has {len(first_row)} columns")
    table = parse_csv(path, text, delimiter, quoted, names)
    first = 1 if names else 2
    table = table.rename_columns([name.strip() for name in table.column_names])
    for wanted_name, candidates in wanted:
        column = match_column(table.column_names, wanted_name, candidates)
        if column is not None and table.column_names.count(column) > 1:
            raise RecipeError(f"{path}: two columns are called {column!r}: rename one of them in row 1")
    cells = {name: table.column(i).to_pylist() for i, name in enumerate(table.column_names)}
    return pd.DataFrame(cells, index=range(first, first + len(table)), dtype=object)


def parse_csv(path: Path, text: str, delimiter: str, quoted: bool, names: list[str] | None) -> pa.Table:
    read = pa.csv.ReadOptions(column_names=names, use_threads=False)  # one thread: errors then name their row
    parse = pa.csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if quoted else False,
        newlines_in_values=quoted,
        # A blank line is an empty value in a file of one column, and nothing at all elsewhere.
        ignore_empty_lines=delimiter in text.partition("\n")[0],
    )
    convert = pa.csv.ConvertOptions(
        null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False, default_column_type=pa.string()
    )
    content = pa.py_buffer(text.encode("utf-8"))
    read.block_size = max(len(content), 1)  # one block, so that a text of any length fits
    try:
        return pa.csv.read_csv(
            pa.BufferReader(content), read_options=read, parse_options=parse, convert_options=convert
        )
    except pa.ArrowInvalid as error:
        raise RecipeError(
            f"{path}: {one_line(error)[:200]}: is the delimiter {delimiter!r} right (--delimiter), and the quoting (--csv_quoting)?"
        ) from error


def guess_delimiter(path: Path, text: str) -> str:
    """Tab for .tsv and for a first line that holds a tab but no comma; semicolon likewise; comma otherwise."""
    first_line = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv":
        return "\t"
    if path.suffix.lower() != ".csv" and "\t" in first_line:
        return "\t"
    if "," not in first_line:
        return next((mark for mark in "\t;" if mark in first_line), ",")
    return ","


def match_column(columns: list[str], wanted: str | None, candidates: tuple[str, ...]) -> str | None:
    """The wanted column if it is there; with none wanted, the first usual name that is, in any case."""
    if wanted is not None:
        return wanted if wanted in columns else None
    by_name = {str(column).lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in candidates if name in by_name), None)


def find_column(columns: list[str], wanted: str | None, candidates: tuple[str, ...], field: str, source: Any) -> str:
    column = match_column(columns, wanted, candidates)
    if column is None:
        missing = (
            f"no column {wanted!r}" if wanted else f"no column with a usual name ({', '.join(candidates[:4])} ...)"
        )
        shown = ", ".join(repr(str(name)[:40]) for name in columns[:12])
        raise RecipeError(
            f"{source}: {missing} among {shown}: name it with --{field}, or, if row 1 is no header, with --column_names"
        )
    return column
