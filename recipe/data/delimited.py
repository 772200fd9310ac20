"""CSV and TSV: the delimiter, the header and the quoting told from the file, every cell taken as it is written."""

import csv
import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv

from recipe.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, Table, clean_name, match_column
from recipe.errors import RecipeError, one_line


@dataclass(frozen=True)
class FileFormat:
    """How to read a delimited file where its name and first row do not tell (field names as in DataArguments)."""

    delimiter: str | None = None
    csv_quoting: str = "auto"
    column_names: tuple[str, ...] | None = None


def parse_delimited(
    source: str,
    text: str,
    suffix: str,
    text_column: str | None,
    label_column: str | None,
    file_format: FileFormat,
    needs_label: bool,
) -> Table:
    """CSV or TSV, every cell as it is written: no number parsing, and only an unquoted empty cell is missing.

    Rows are numbered from 1, the header being row 1; lines that are blank do not count.
    """
    text = text.lstrip("\r\n")
    delimiter = (file_format.delimiter or guess_delimiter(suffix, text)).replace("\\t", "\t")
    if len(delimiter) != 1 or not delimiter.isascii():
        raise RecipeError(f"delimiter is {delimiter!r}: give a single ASCII character, as in --delimiter ';'")
    quoting = file_format.csv_quoting
    quoted = quoting == "minimal" or (quoting == "auto" and delimiter != "\t")
    first_row = [clean_name(cell) for cell in read_first_row(text, delimiter, quoted)]
    # A header is a first row that holds the columns we look for; a file without one needs column_names.
    wanted = [(text_column, TEXT_COLUMNS)] + ([(label_column, LABEL_COLUMNS)] if needs_label else [])
    has_header = all(match_column(first_row, name, candidates) for name, candidates in wanted)
    names = None
    if not has_header and file_format.column_names:
        names = list(file_format.column_names)
        if len(names) != len(first_row):
            raise RecipeError(
                f"{source}: column_names gives {len(names)} names, but row 1 has {len(first_row)} columns"
            )
    table = parse_csv(source, text, delimiter, quoted, names)
    first = 1 if names else 2
    return Table(
        columns=[clean_name(name) for name in table.column_names],
        rows=range(first, first + len(table)),
        cells=lambda i: table.column(i).to_pylist(),
        label_names={},
    )


def parse_csv(source: str, text: str, delimiter: str, quoted: bool, names: list[str] | None) -> pa.Table:
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
            f"{source}: {one_line(error)[:200]}: is the delimiter {delimiter!r} right (--delimiter), and the quoting (--csv_quoting)?"
        ) from error


def read_first_row(text: str, delimiter: str, quoted: bool) -> list[str]:
    """Alone, to see whether it is a header before the rest is read; a quoted cell may hold delimiters and lines."""
    csv.field_size_limit(max(len(text), 1))
    quotes = {"quotechar": '"'} if quoted else {"quoting": csv.QUOTE_NONE}
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, **quotes), [])


def guess_delimiter(suffix: str, text: str) -> str:
    """Tab for .tsv and for a first line that holds a tab but no comma; semicolon likewise; comma otherwise."""
    first_line = text.partition("\n")[0]
    if suffix == ".tsv":
        return "\t"
    if suffix != ".csv" and "\t" in first_line:
        return "\t"
    if "," not in first_line:
        return next((mark for mark in "\t;" if mark in first_line), ",")
    return ","
