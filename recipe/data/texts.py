"""Texts as strings: lone surrogates replaced, parts joined, hashed; and cells that no spreadsheet runs."""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PAIR_SEPARATOR = "\n"


def clean_text(text: Any) -> Any:
    """Return the text with surrogate pairs joined and lone surrogates replaced by U+FFFD; other values unchanged.

    JSON escapes can hold lone surrogates, UTF-8 and so tokenizers cannot.
    """
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def join_texts(parts: Sequence[str | None], separator: str = PAIR_SEPARATOR) -> str | None:
    """Return one text of several parts, without white space at their ends; a part may be missing, but not all of them.

    The separator marks the parts' borders, for the tokenizer too: in all parts but the last, a blank stands in its place.
    """
    if all(part is None for part in parts):
        return None
    *first, last = ((part or "").strip() for part in parts)
    return separator.join([*(part.replace(separator, " ") for part in first), last])


def hash_texts(texts: Iterable[str]) -> "np.ndarray":
    """Return uint64 [N], the same on every machine."""
    import numpy as np
    from pandas.util import hash_array

    rest, hashes = iter(texts), [np.array([], dtype=np.uint64)]
    while batch := list(itertools.islice(rest, 10_000)):  # an iterable may read its texts from a file
        hashes.append(hash_array(np.array(batch, dtype=object), categorize=False))
    return np.concatenate(hashes)


# What a spreadsheet runs: `=` and anything, or + - @ and a function call, a pipe to another program, or a sum. `@user hi` and
# `-5 degrees` are texts to it. Apostrophes before it count, so that a text which has one already keeps it.
FORMULA = re.compile(r"'*\s*(=|[+\-@](\s*([\w.]+\s*)?\(|[^\n]*\||[\d.]+([+\-*/^][\d.]+)+\s*$))")


def escape(cell: Any) -> Any:
    """Return the cell with an apostrophe before a formula, so that no spreadsheet runs it."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def unescape(cell: Any) -> Any:
    """Return the cell that `escape` was given."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and FORMULA.match(cell) else cell
