"""CSV and TSV files: delimiter, quoting and header row found from the content, and rows as pyarrow parses them."""

import contextlib
import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from recipe.data import batches
from recipe.data.batches import Batch, FileFormat
from recipe.data.columns import OPTIONAL, USUAL_COLUMNS, Wanted, clean_name, match_columns
from recipe.data.first_bytes import BLOCK
from recipe.data.quoting import QuoteWatch, find_quote_problems, opens_with_quotes, quotes_are_meant, swallowed_row
from recipe.data.text_files import Utf8File, split_lines
from recipe.data.texts import unescape
from recipe.errors import RecipeError, first_line, shorten

logger = logging.getLogger(__name__)

SAMPLE = 1 << 18  # bytes of a file's start that tell its delimiter
SEP_LINE = re.compile(rb'"?sep=(\t|[^\r\n])"?\r?\n[\r\n]*', re.IGNORECASE)  # in which Excel notes the delimiter
# Names that columns have and texts and labels do not, beside the usual ones.
OTHER_NAMES = {"v1", "v2", "id", "index", "label_text", "class index", "description", "tweet", "comment", "target"}
NAMES = OTHER_NAMES.union(*USUAL_COLUMNS.values())


class Layout(NamedTuple):
    """How the cells of a file are written."""

    delimiter: str
    quoting: str  # minimal, none or backslash
    start: int  # bytes before the first row
    width: int  # cells of the first row


def csv_batches(path: Path, suffix: str, wanted: Wanted, file_format: FileFormat) -> Iterator[Batch]:
    """Yield the cells as strings; rows are numbered from 1, a header being row 1; blank lines do not count.

    An unquoted empty cell is None and a quoted one an empty text, which pandas does not tell apart; hence pyarrow, whose
    errors also name the row. An unquoted `\\N`, as MySQL and PostgreSQL write it, is None too.
    """
    layout = find_layout(path, suffix, file_format)
    delimiter, quoting = layout.delimiter, layout.quoting
    # A blank line is an empty value in a file of one column, and nothing at all elsewhere.
    options = {"newlines_in_values": quoting != "none", "ignore_empty_lines": layout.width > 1}
    marks = {"quote_char": quoting != "none" and '"', "escape_char": quoting == "backslash" and "\\"}
    parse = pa.csv.ParseOptions(delimiter=delimiter, **marks, **options)
    nulls = {"null_values": ["", r"\N"], "strings_can_be_null": True, "quoted_strings_can_be_null": False}
    convert = pa.csv.ConvertOptions(default_column_type=pa.string(), **nulls)

    def open_reader(
        file: Utf8File | QuoteWatch, block_size: int, names: Sequence[str] | None = None
    ) -> pa.csv.CSVStreamingReader:
        # One thread, so that errors name their row.
        read = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=block_size)
        return pa.csv.open_csv(pa.PythonFile(file, "r"), read, parse, convert)

    if quoting == "backslash":
        check_quotes(path, layout, file_format)
    fix = f"is the delimiter {delimiter!r} right (--delimiter), and the quoting (--csv_quoting)?"
    fix += " Else give each row, and the header, as many cells"
    if layout.width == 1:
        fix = "give --column_names text if each line is a text, or the --delimiter that stands between the columns"
        fix += "; if row 1 is none, remove such lines"
    done, is_checked, is_warned = 0, quoting != "minimal", quoting == "none"
    for block_size in (BLOCK, file_format.max_row):  # large blocks, which take memory, only where a row needs them
        try:
            names, first_row = None, 2
            if file_format.column_names:
                with Utf8File(path, file_format.encoding, layout.start) as file:
                    first = open_reader(file, block_size).schema.names
                if not is_header(first, wanted):
                    names, first_row = file_format.column_names, 1
                    if len(names) != len(first):
                        counts = f"{len(names)} names, but row 1 has {len(first)} columns"
                        fix = "name each of them, or give --column_names text if each line is a text"
                        raise RecipeError(f"{path}: column_names gives {counts}: {fix}")
            with Utf8File(path, file_format.encoding, layout.start) as file:
                watch = QuoteWatch(file, delimiter)
                reader, skip = open_reader(file if is_checked else watch, block_size, names), done
                for block in reader:
                    if not is_checked and watch.is_suspicious:
                        check_quotes(path, layout, file_format)
                        is_checked = True
                    new = block[skip:]
                    skip -= len(block) - len(new)
                    if names and not done and len(new):
                        check_first_row(path, names, [column.to_pylist() for column in new.columns], wanted)
                    if not is_warned and (found := swallowed_row(new, delimiter)):
                        is_warned = True
                        row = f"{path}: row {first_row + done + found[0]} has a text of several lines"
                        why = f"one of which looks like a row of its own ({shorten(found[1])})"
                        logger.warning("%s, %s: if its quotes are none, give --csv_quoting none", row, why)
                    for part in (new[i : i + batches.BATCH_ROWS] for i in range(0, len(new), batches.BATCH_ROWS)):
                        rows = range(first_row + done, first_row + done + len(part))
                        yield Batch(reader.schema.names, [*map(unescape_column, part.columns)], rows)
                        done += len(part)
                if not is_checked and watch.is_suspicious:
                    check_quotes(path, layout, file_format)
            return
        except pa.ArrowInvalid as error:
            is_short = "straddling" not in str(error)
            if quoting != "none" and (is_short or block_size == file_format.max_row):
                check_quotes(path, layout, file_format)
            if is_short:
                raise RecipeError(f"{path}: cannot be read ({first_line(error)[:200]}): {fix}") from error
    large = f"a row of over {file_format.max_row / 1e6:g} MB, or a quote that is not closed"
    raise RecipeError(f"{path}: {large}: cut the text, or raise --max_row_mb; {fix}")


def find_layout(path: Path, suffix: str, file_format: FileFormat) -> Layout:
    """Return how the cells are written: what the options say, else what the file's first lines, or all of a TSV file, show."""
    with Utf8File(path, file_format.encoding) as file:
        sample = file.read(SAMPLE)
    start = len(sample) - len(sample.lstrip(b"\r\n"))
    marked = SEP_LINE.match(sample, start)
    start = marked.end() if marked else start
    opening = sample[start:].decode(errors="replace")
    lines = split_lines(opening) or [""]
    delimiter = file_format.delimiter or ""
    if file_format.delimiter is None:
        lines = lines[:-1] if len(sample) == SAMPLE and len(lines) > 1 else lines  # the last may be cut
        delimiter = marked[1].decode() if marked else guess_delimiter(lines, suffix, file_format)
    delimiter = delimiter.replace("\\t", "\t")
    if len(delimiter) != 1 or not delimiter.isascii():
        raise RecipeError(f"delimiter is {delimiter!r}: give a single ASCII character, as in --delimiter ';'")
    quoting = file_format.csv_quoting
    if quoting == "auto":
        quoting = "minimal"
        if delimiter == "\t" and not tabs_are_quoted(path, start, file_format):
            quoting = "none"
    return Layout(delimiter, quoting, start, len(sample_rows(lines, delimiter, quoting)[0]))


def guess_delimiter(lines: Sequence[str], suffix: str, file_format: FileFormat) -> str:
    """Return the mark that cuts most lines into as many cells as the first, or as there are column_names.

    Of marks that do equally well, one is taken after which texts do not go on with a blank, as they do after a comma.
    """
    marks = {".tsv": "\t", ".csv": ",\t;|"}.get(suffix, "\t,;|")

    def agreement(mark: str) -> tuple[float, float]:
        quoting = {"auto": "none" if mark == "\t" else "minimal"}.get(file_format.csv_quoting, file_format.csv_quoting)
        rows = sample_rows(lines, mark, quoting)
        widths = [len(row) for row in rows]
        wanted = len(file_format.column_names or rows[0])
        shares = [widths.count(width) / len(rows) if width > 1 else 0.0 for width in (wanted, widths[0])]
        return sum(shares), -sum(cell.startswith(" ") for row in rows for cell in row[1:]) / len(rows)

    found = {mark: agreement(mark) for mark in marks}
    best = max(marks, key=found.get)
    if found[best][0]:
        return best
    return next((mark for mark in marks if mark in lines[0]), "\t" if suffix == ".tsv" else ",")


def sample_rows(lines: Sequence[str], delimiter: str, quoting: str) -> list[list[str]]:
    """Return the first rows by Python's parser, up to one that it cannot take."""
    marks = {"quoting": csv.QUOTE_NONE} if quoting == "none" else {}
    marks |= {"escapechar": "\\"} if quoting == "backslash" else {}
    rows = []
    with contextlib.suppress(csv.Error):  # of a cell over its limit
        rows.extend(row for row in csv.reader(lines, delimiter=delimiter, **marks) if row)
    return rows or [[""]]


def tabs_are_quoted(path: Path, start: int, file_format: FileFormat) -> bool:
    """Return whether the cells of a file whose delimiter is a tab are quoted, as pandas quotes them."""
    with Utf8File(path, file_format.encoding, start) as file:
        if not opens_with_quotes(file, BLOCK):
            return False
    with Utf8File(path, file_format.encoding, start) as file:
        meant = quotes_are_meant(text_lines(file), file_format.max_row)
    if meant:
        logger.info("%s: its quotes are read as quotes of cells; --csv_quoting none takes them as written", path)
    return meant


def text_lines(file: Utf8File) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8", newline="")


def check_quotes(path: Path, layout: Layout, file_format: FileFormat) -> None:
    """Refuse a file in which a quote swallows rows; warn of one in which quotes are lost. Either names the first such row."""
    escapechar = "\\" if layout.quoting == "backslash" else None
    with Utf8File(path, file_format.encoding, layout.start) as file:
        problems = find_quote_problems(text_lines(file), layout.delimiter, escapechar, file_format.max_row)
    as_written = "give --csv_quoting none, which takes quotes as they are"
    large = f"has over {file_format.max_row_mb:g} MB, or opens a quote that is never closed"
    for kind, what, fix in (  # the worst first
        ("open", "opens a quote that is never closed", f"{as_written}, or correct the row"),
        ("large", large, f"cut the text, raise --max_row_mb, or {as_written}"),
        ("lines", "opens a quote that closes some lines later, before the end of a cell", as_written),
        ("backslash", "has a quote after a backslash", "give --csv_quoting backslash if that is a quote in a text"),
        ("blank", "has a blank between delimiter and quote", f"remove such blanks, or {as_written}"),
        ("text", "goes on after the quote that closes its cell, and so loses quotes", as_written),
    ):
        if kind in problems:
            message = f"{path}: row {problems[kind].row} {what} ({shorten(problems[kind].shown)}): {fix}"
            if kind in ("open", "large"):
                raise RecipeError(message)
            if file_format.csv_quoting == "auto" and kind != "text":
                raise RecipeError(f"{message}, or --csv_quoting minimal, which reads it as pandas does")
            logger.warning("%s", message)
            return


def is_header(first: Sequence[str], wanted: Wanted) -> bool:
    """Return whether the first row names the wanted texts and labels."""
    found = match_columns(first, wanted)
    return all(found[field] for field in USUAL_COLUMNS if field in found and field not in OPTIONAL)


def check_first_row(path: Path, names: Sequence[str], columns: Sequence[Sequence[str]], wanted: Wanted) -> None:
    """Refuse a first row that seems to name the columns, where column_names says that it is data."""
    cells = [clean_name(column[0] or "") for column in columns]
    if not all(reads_like_name(cell) for cell in cells[1:] + (cells[:1] if cells[0] else [])):
        return
    is_name = any(cell.lower() in NAMES for cell in cells)
    if label := "label" in wanted and match_columns(names, {"label": wanted["label"]})["label"]:
        labels = [clean_name(cell or "") for cell in columns[names.index(label)]]
        # A label comes again; one that does not, beside many that do, is none.
        is_alone = labels.count(labels[0]) == 1
        is_name = is_alone and (is_name or len(labels) > 4 * (len(set(labels)) - 1) > 0)
    if is_name:
        shown = ", ".join(map(repr, cells[:6]))
        fix = "leave out --column_names and name columns by --text_column and --label_column"
        raise RecipeError(f"{path}: row 1 ({shown}) seems to name the columns: {fix}, or, if it is data, move it down")


def reads_like_name(cell: str) -> bool:
    """Return whether a cell could be the name of a column: up to three words, no number, no punctuation of a sentence."""
    return len(cell) <= 40 and bool(re.fullmatch(r"[^\W\d][\w#/()-]*([ .][\w#/()-]+){0,2}", cell))


def unescape_column(column: pa.Array) -> pa.Array | list[str | None]:
    """Return the cells without the apostrophes that predict.py, or a spreadsheet, has put before formulas."""
    escaped = pa.compute.any(pa.compute.starts_with(column, "'")).as_py()
    return [*map(unescape, column.to_pylist())] if escaped else column
