"""Quotes in CSV and TSV files: whether they are meant as such, and those that would make a text lose or swallow something."""

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from recipe.data.rows import NUMBER

logger = logging.getLogger(__name__)

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


class QuoteProblem(NamedTuple):
    row: int
    kind: str  # open, large, lines, backslash, text or blank
    shown: str  # the start of its cell or line


class Records:
    """The records of a CSV file by Python's strict parser, with the lines that each was written in."""

    def __init__(self, lines: Iterable[str], **layout: str | int | bool):
        self.lines, self.number = [], 0
        self.reader = csv.reader(self.remember(lines), strict=True, **layout)

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


def find_quote_problem(
    lines: Iterable[str], delimiter: str, escapechar: str | None, max_cell: int
) -> QuoteProblem | None:
    """Return the first row whose quotes lose or swallow something."""
    records = Records(lines, delimiter=delimiter, escapechar=escapechar)
    try:
        with field_limit(max_cell):
            for cells in records:
                for position, cell in enumerate(cells):
                    # Such a quote opens no cell, and the next delimiter cuts the text; a quoted cell is written otherwise.
                    opens = re.match(r' +"', cell) and cell in "".join(records.lines)
                    if opens and any(after.rstrip().endswith('"') for after in cells[position:]):
                        return QuoteProblem(records.number, "blank", cell)
    except csv.Error as error:
        first, *others = records.lines
        if "expected after" in str(error):
            kind = "lines" if others else "backslash" if '\\"' in first else "text"
        else:
            kind = "large" if "limit" in str(error) else "open"
        return QuoteProblem(records.number, kind, first)
    return None


def quotes_are_meant(lines: Iterable[str], max_cell: int) -> bool:
    """Return whether the quotes of a file whose cells tabs separate are no part of its texts.

    Every cell that opens with a quote has to close with one and double those in it, every row to have as many cells, and at
    least one to have a reason for its quotes: a doubled one, a tab or line break that would break the rows otherwise, or that
    the whole column has them.
    """
    records = Records(lines, delimiter="\t")
    reason, breaks_rows, width, always = False, False, None, None
    try:
        with field_limit(max_cell):
            for cells in records:
                width = width or len(cells)
                if len(cells) != width:
                    return False
                if reason:
                    continue
                row = "".join(records.lines)
                quoted = quoted_cells(row, cells) if '"' in row else [False] * width
                always = quoted if always is None else [x and y for x, y in zip(always, quoted, strict=True)]
                reason = any('"' in cell for cell, is_quoted in zip(cells, quoted, strict=True) if is_quoted)
                breaks_rows |= any(line.rstrip("\r\n").count("\t") != width - 1 for line in records.lines)
    except csv.Error:
        return False
    return reason or breaks_rows or any(always or [])


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
        has_break = pa.compute.match_substring(column, "\n")
        if not pa.compute.any(has_break).as_py():
            continue
        for row in pa.compute.indices_nonzero(has_break).to_pylist():
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
                    if cell in known or (NUMBER.fullmatch(cell) and all(map(NUMBER.fullmatch, known))):
                        return row, line
    return None


def opens_with_quotes(file: BinaryIO, block: int) -> bool:
    """Return whether any cell of a file whose cells tabs separate opens with a quote."""
    before = b"\n"
    while content := file.read(block):
        content, before = before + content, content[-1:]
        if any(start in content for start in (b'\t"', b'\n"', b'\r"')):
            return True
    return False
