"""Texts as strings: lone surrogates replaced, parts joined; and how a saved model's run has read its own."""

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.errors import RecipeError, as_recipe_error
from recipe.shipped import PACKAGE, shipped

if TYPE_CHECKING:
    import numpy as np

RUN_CONFIG_FILE = "run_config.yaml"  # the fields of a run, in its output_dir
PAIR_SEPARATOR = "\n"
# How a run has read its files, for whatever reads more of them for its model; and the types of these fields.
READING = {
    "text_column": list | str | None,
    "text_pair_column": str | None,
    "text_pair_separator": str,
    "label_column": str | None,
    "column_names": list | None,
    "delimiter": str | None,
    "csv_quoting": str,
    "encoding": str | None,
}
READ_AGAIN = {**READING, "normalize_labels": bool, "class_weight": str}


def clean_text(text: Any) -> Any:
    """Return the text with surrogate pairs joined and lone surrogates replaced by U+FFFD; other values unchanged.

    JSON escapes can hold lone surrogates, UTF-8 and so tokenizers cannot.
    """
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def join_texts(parts: Sequence[str | None], separator: str = PAIR_SEPARATOR) -> str | None:
    """Return one text of several parts, without white space at their ends; a part may be missing, but not all of them."""
    if all(part is None for part in parts):
        return None
    return separator.join((part or "").strip() for part in parts)


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


def read_run_config(model_dir: str | Path) -> dict[str, Any]:
    """Return the fields of the run that saved a model; empty for a model that no run of ours saved."""
    import yaml

    path = Path(model_dir).expanduser() / RUN_CONFIG_FILE
    errors = (OSError, ValueError, RecursionError, yaml.YAMLError)
    with as_recipe_error(errors, f"{path}: cannot be read", "restore it, or remove it"):
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(fields, dict):
        raise RecipeError(f"{path}: holds no `field: value` lines: restore it, or remove it")
    for name, kinds in READ_AGAIN.items():
        if name in fields and not isinstance(fields[name], kinds):
            raise RecipeError(f"{path}: {name} is {str(fields[name])[:40]!r}: restore it, or remove the file")
    return fields


def base_model_name(model_dir: str | Path) -> str:
    """Return the name of the model that a saved one was trained from, as it is shown."""
    return shown_name(read_run_config(model_dir).get("model_name_or_path") or model_dir)


def shown_name(model_name_or_path: str | Path) -> str:
    """Return a model's name for tables and pictures; `this model` for a folder, whose name may be private."""
    path = Path(shipped(str(model_name_or_path)))
    is_public = not path.exists() or path.resolve().is_relative_to(PACKAGE)
    return path.name if is_public else "this model"


def reading_of(model_dir: str | Path) -> dict[str, Any]:
    """Return how the run that saved a model has read its files: the options of READING that it has."""
    fields = {name: value for name, value in read_run_config(model_dir).items() if name in READING}
    if isinstance(fields.get("text_column"), str):
        fields["text_column"] = [fields["text_column"]]
    return fields
