"""Files of one text a line: bare texts, and fastText's and TREC's, which put labels beside each."""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recipe.data import batches
from recipe.data.batches import Batch, FileFormat, batch_of_records
from recipe.data.text_files import Utf8File
from recipe.errors import RecipeError

FASTTEXT = re.compile(r"((?:__label__\S+\s+)*(?:__label__\S+$)?)(.*)", re.DOTALL)
TREC = re.compile(r"([A-Z]+):([a-z]+) (.*)", re.DOTALL)


def read_lines(path: Path, file_format: FileFormat) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file without their ends, and their numbers; refuse one that is too long."""
    with Utf8File(path, file_format.encoding) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8")
        number, limit = 0, file_format.max_row
        while line := lines.readline(limit + 1):
            number += 1
            if len(line) > limit:
                large = f"line {number} has over {file_format.max_row_mb:g} MB"
                raise RecipeError(f"{path}: {large}: cut the text, or raise --max_row_mb")
            yield number, line.removesuffix("\n")


def in_batches(records: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Batch]:
    """Yield records and their numbers as batches of rows."""
    part: dict[int, dict[str, Any]] = {}
    for number, record in records:
        part[number] = record
        if len(part) == batches.BATCH_ROWS:
            yield batch_of_records(part)
            part = {}
    if part:
        yield batch_of_records(part)


def line_batches(path: Path, name: str, has_header: bool, file_format: FileFormat) -> Iterator[Batch]:
    """Yield each line as a text, whatever it holds, in a column of this name; of an empty line, an empty text."""
    lines = read_lines(path, file_format)
    if has_header:
        next(lines)
    return in_batches((number, {name: line}) for number, line in lines)


def fasttext_batches(path: Path, file_format: FileFormat) -> Iterator[Batch]:
    """Yield the columns text and label: of a line with several labels, their list. Blank lines are skipped."""

    def record(line: str) -> dict[str, Any]:
        before, text = FASTTEXT.fullmatch(line).groups()
        text, after = (text, []) if before else labels_after(text)
        labels = [label.removeprefix("__label__") for label in before.split() + after]
        return {"text": text, "label": labels if len(labels) > 1 else next(iter(labels), None)}

    return in_batches((number, record(line)) for number, line in read_lines(path, file_format) if line.strip())


def labels_after(line: str) -> tuple[str, list[str]]:
    """Return a line's text, and the labels of fastText after it."""
    labels: list[str] = []
    while (words := line.rsplit(maxsplit=1)) and words[-1].startswith("__label__"):
        labels.insert(0, words[-1])
        line = words[0] if len(words) > 1 else ""
    return line, labels


def trec_batches(path: Path, file_format: FileFormat) -> Iterator[Batch]:
    """Yield the columns text, coarse (`DESC`) and fine (`DESC:manner`); refuse a line without such a label."""

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in read_lines(path, file_format):
            if not line.strip():
                continue
            if not (found := TREC.fullmatch(line)):
                raise RecipeError(f"{path}: line {number} has no label such as DESC:manner before its text: correct it")
            coarse, fine, text = found.groups()
            yield number, {"text": text, "coarse": coarse, "fine": f"{coarse}:{fine}"}

    return in_batches(records())


def kind_of_lines(lines: list[str]) -> str | None:
    """Return `fastText` or `TREC` where a file's first lines, without blank ones, are written so."""
    if lines[0].startswith("__label__") or all(labels_after(line)[1] for line in lines):
        return "fastText"
    return "TREC" if all(map(TREC.match, lines)) else None
