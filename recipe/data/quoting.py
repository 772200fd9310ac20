"""Quotes in CSV and TSV files: whether they are meant as such, and those that would make a text lose or swallow something."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from recipe.data.rows import NUMBER

QUOTE = ord('"')


class QuoteWatch:
    """Reads a file for pyarrow, and notes whether its quotes stand only around cells and, doubled, in them.

    Every second quote then follows a delimiter, an end of line or a quote, and every other precedes one. A file in which they
    do costs nothing more; any other is worth a look by Python's slower parser.
    """

    closed = False

    def __init__(self, file: BinaryIO, delimiter: str):
        self.file, self.is_suspicious = file, False
        self.is_border = np.zeros(256, dtype=bool)
        self.is_border[[*b'\r\n"', ord(delimiter)]] = True
        self.rest, self.is_open = b"\n", 0  # the byte before, and the last one; whether a quote is open

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        content = np.frombuffer(self.rest + (block or b"\n"), dtype=np.uint8)
        quotes = np.flatnonzero(content[1:-1] == QUOTE) + 1
        opening, closing = quotes[self.is_open :: 2], quotes[1 - self.is_open :: 2]
        in_place = self.is_border[content[opening - 1]].all() and self.is_border[content[closing + 1]].all()
        self.is_open = (self.is_open + len(quotes)) % 2
        self.is_suspicious |= not in_place or (not block and self.is_open == 1)
        self.rest = content[-2:].tobytes()
        return block

    def close(self) -> None:
        self.closed = True


class Problem(NamedTuple):
    row: int
    shown: str  # its first line, or the cell


class Records:
    """The records of a CSV file by Python's parser, with the lines that each was written in."""

    def __init__(self, lines: Iterable[str], **layout: str | bool | None):
        self.lines, self.number = [], 0
        self.reader = csv.reader(self.remember(lines), **layout)

    def remember(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.lines.append(line)
            yield line

    def __iter__(self) -> Iterator[list[str]]:
        self.number = 1
        for cells in self.reader:
            if cells:  # of a blank line: none
                yield cells
                self.number += 1
            self.lines.clear()


@contextmanager
def field_limit(size: int) -> Iterator[None]:
    """Let Python's parser take cells of this size."""
    before = csv.field_size_limit(size)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def find_quote_problems(
    lines: Iterable[str], delimiter: str, escapechar: str | None, max_cell: int
) -> dict[str, Problem]:
    """Return the first row of each kind of problem with quotes.

    open: a quote is never closed; large: nor is one before a cell is over the limit; lines: one closes some lines later, before
    its cell ends; text: a cell goes on after its quote; backslash: so it does, and a backslash stands before the quote; blank:
    one stands before a quote, which so opens no cell.
    """
    layout = {"delimiter": delimiter, "escapechar": escapechar}
    end, found, cells = "\0end", {}, []
    records = Records(itertools.chain(lines, [end]), **layout)
    try:
        with field_limit(max_cell):
            for cells in records:
                written = "".join(records.lines)
                if '"' not in written or cells == [end]:
                    continue
                first = records.lines[0]
                if kind := kind_of_problem(records.lines, layout):
                    found.setdefault(kind, Problem(records.number, first))
                for position, cell in enumerate(cells):
                    # The next delimiter cuts its text; a quoted cell with a blank is written otherwise.
                    is_opened = re.match(r' +"', cell) and cell in written
                    if is_opened and any(after.rstrip().endswith('"') for after in cells[position:]):
                        found.setdefault("blank", Problem(records.number, cell))
    except csv.Error:
        found["large"] = Problem(records.number, records.lines[0])
    else:
        if cells != [end]:
            found["open"] = Problem(records.number - 1, first)
    return found


def kind_of_problem(lines: Sequence[str], layout: Mapping[str, str | None]) -> str | None:
    """Return whether a record, as it is written, goes on after the quote that closes a cell, and how."""
    try:
        next(csv.reader(lines, strict=True, **layout))
    except csv.Error as error:
        if "expected after" in str(error):
            return "lines" if len(lines) > 1 else "backslash" if '\\"' in lines[0] else "text"
    return None


def quotes_are_meant(lines: Iterable[str], max_cell: int) -> bool:
    """Return whether the quotes of a file whose cells tabs separate are no part of its texts.

    Every cell that opens with a quote has to close with one and double those in it, every row to have as many cells, and at
    least one to have a reason for its quotes: a doubled one, a tab or line break that would break the rows otherwise, that
    the whole column has them, or a comma, if all cells with one are quoted and no others, as Excel does it.
    """
    records = Records(lines, delimiter="\t", strict=True)
    doubled, breaks_rows, width, always = False, False, None, None
    with_comma, others = 0, False  # quoted cells with a comma; whether some are quoted without, or not quoted with one
    try:
        with field_limit(max_cell):
            for cells in records:
                width = width or len(cells)
                if len(cells) != width:
                    return False
                if doubled:
                    continue
                written = "".join(records.lines)
                quoted = quoted_cells(written, cells) if '"' in written else [False] * width
                always = [x and y for x, y in zip(always or quoted, quoted, strict=True)]
                doubled = any(is_quoted and '"' in cell for cell, is_quoted in zip(cells, quoted, strict=True))
                breaks_rows |= any(line.rstrip("\r\n").count("\t") != width - 1 for line in records.lines)
                with_comma += sum(quoted)
                others |= ["," in cell for cell in cells] != quoted
    except csv.Error:
        return False
    return doubled or breaks_rows or any(always or []) or (with_comma > 1 and not others)


def quoted_cells(row: str, cells: Sequence[str]) -> list[bool]:
    """Return which cells of a well-formed row were written in quotes."""
    start, found = 0, []
    for cell in cells:
        quoted = '"' + cell.replace('"', '""') + '"'
        found.append(row.startswith(quoted, start))
        start += len(quoted if found[-1] else cell) + 1
    return found


def swallowed_row(table: pa.RecordBatch, delimiter: str) -> tuple[int, str] | None:
    """Return the first row in which a cell holds a line that looks like a row of its own, and that line.

    Such a line has as many cells as its place in the cell asks for, and in another column either a value that this column
    has elsewhere, or a number where it has numbers.
    """
    width = table.num_columns
    values: dict[int, set[str]] = {}
    if width < 2:
        return None
    for position, column in enumerate(table.columns):
        for row in rows_with_breaks(column):
            lines = column[row].as_py().split("\n")
            for number, line in enumerate(lines):
                first = position if number == 0 else 0  # the columns that the line would fill
                last = position if number == len(lines) - 1 else width - 1
                if first == last or line.count(delimiter) != last - first or f"{delimiter} " in line:  # a text's comma
                    continue
                for other, cell in enumerate(line.rstrip("\r").split(delimiter), start=first):
                    if other == position or not cell:
                        continue
                    known = values.setdefault(other, {*table.column(other).to_pylist()} - {None})
                    if cell in known or (NUMBER.fullmatch(cell) and known and all(map(NUMBER.fullmatch, known))):
                        return row, line
    return None


def rows_with_breaks(column: pa.StringArray) -> list[int]:
    """Return the rows of the cells that hold a line break; much faster than a search in each cell."""
    _, offsets, content = column.buffers()
    if content is None or not len(column):
        return []
    starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    breaks = np.flatnonzero(np.frombuffer(content, np.uint8)[starts[0] : starts[-1]] == ord("\n")) + starts[0]
    return np.unique(np.searchsorted(starts, breaks, side="right") - 1).tolist()


def opens_with_quotes(file: BinaryIO, block: int) -> bool:
    """Return whether any cell of a file whose cells tabs separate opens with a quote."""
    before = b"\n"
    while content := file.read(block):
        marks = np.frombuffer(before + content, np.uint8)
        quotes = np.flatnonzero(marks[1:] == QUOTE)
        if np.isin(marks[quotes], (*b"\t\r\n",)).any():
            return True
        before = content[-1:]
    return False
