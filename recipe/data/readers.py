"""Readers: the files and datasets that arguments name, into checked frames of texts and labels."""

import glob
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pandas as pd

from recipe.arguments import DataArguments
from recipe.data import tables
from recipe.data.row_checks import check_rows, check_texts
from recipe.data.tables import FileFormat, Table, clean_name
from recipe.data.texts import PAIR_SEPARATOR, clean_text, join_pairs
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

# The splits, and the names that hub datasets give them.
HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)
USUAL_COLUMNS = {
    "text": ("text", "sms", "message", "sentence", "content", "review", "body", "document", "question", "title"),
    "label": ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic"),
}
TEXT_AND_LABEL = {"text": None, "label": None}  # both found by a usual name


def read_splits(args: DataArguments) -> tuple[dict[str, pd.DataFrame], list[str] | None]:
    """Return the checked rows of each split that is given, and the label names where the training data declares them.

    The frames hold `text`, `label`, `row`, `source` and, where asked for, `group` and `time`; labels are strings.
    """
    names = tuple(args.column_names) if args.column_names else None
    file_format = FileFormat(args.delimiter, args.csv_quoting, names)
    read = {} if args.train_file else read_dataset_splits(args)
    for split in SPLITS:
        if paths := getattr(args, f"{split}_file"):
            read[split] = read_files(paths, f"{split}_file", wanted_columns(args, split), file_format)
    frames = {split: join_pairs(frame, args.text_pair_separator) for split, (frame, _) in read.items()}
    return frames, read["train"][1]


def wanted_columns(args: DataArguments, split: str) -> dict[str, str | None]:
    pair_and_group = {"text_pair": args.text_pair_column, "group": args.group_column}
    time = {"time": args.time_column} if split == "train" else {}  # only training rows are split by time
    return {"text": args.text_column, "label": args.label_column, **pair_and_group, **time}


def read_files(
    paths: Sequence[str], field: str, columns: Mapping[str, str | None], file_format: FileFormat
) -> tuple[pd.DataFrame, list[str] | None]:
    """Return the checked rows of files and globs, and the names that a `ClassLabel` declares (None where files differ)."""
    parts = [(path, read_file(path, columns, file_format)) for path in expand_paths(paths, field)]
    declared = [names for _, (_, names) in parts]
    frame = pd.concat([check_rows(part, path) for path, (part, _) in parts], ignore_index=True)
    return frame, declared[0] if all(names == declared[0] for names in declared) else None


def read_dataset_splits(args: DataArguments) -> dict[str, tuple[pd.DataFrame, list[str] | None]]:
    """Return the same for each split of dataset_name: of the hub, a folder of files, or one that save_to_disk wrote."""
    name = args.dataset_name
    dataset = tables.load_dataset(name, args.dataset_config_name)
    dataset = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    read = {}
    for split, aliases in HUB_SPLITS.items():
        alias = next((alias for alias in aliases if alias in dataset), None)
        if alias is None:
            continue
        source = f"{name} ({alias})"
        frame, declared = take_columns(
            source, tables.dataset_table(source, dataset[alias]), wanted_columns(args, split)
        )
        if split == "test" and frame["label"].isna().all():
            logger.warning(
                "%s has no labels (benchmarks keep them secret): a test split is made of training rows instead", source
            )
            continue
        read[split] = check_rows(frame, source), declared
    if "train" not in read:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    return read


def read_texts(
    path: str | Path,
    text_column: str | None = None,
    file_format: FileFormat = FileFormat(),
    text_pair_column: str | None = None,
    text_pair_separator: str = PAIR_SEPARATOR,
) -> list[str]:
    """Return the texts of a file, to be classified: one for each row, pairs joined; a missing cell is an empty text.

    Raises:
        RecipeError: as read_file, and a text that is not a string.
    """
    frame, _ = read_file(path, {"text": text_column, "text_pair": text_pair_column}, file_format)
    check_texts(frame.assign(source=str(path)))
    return join_pairs(frame.mask(frame.isna(), ""), text_pair_separator)["text"].tolist()


def read_file(
    path: str | Path,
    columns: Mapping[str, str | None] = TEXT_AND_LABEL,
    file_format: FileFormat = FileFormat(),
) -> tuple[pd.DataFrame, list[str] | None]:
    """Read a .csv, .tsv, .jsonl, .ndjson, .json (one object a line, or an array of objects) or .parquet file, each also
    as .gz, or a folder that `save_to_disk` wrote for a Dataset; other names are read as CSV or TSV.

    Args:
        columns: what to take, as `text`, `label`, `text_pair`, `group` or `time` -> the column's name; `text` and
            `label` are found by a usual name where it is None, the others are left out.

    Returns:
        A frame with those columns, as the file holds them (None for a missing cell), and `row`: JSON lines by line; JSON
        arrays, Parquet and saved datasets from 1; CSV by row, the header being row 1 (blank lines do not count, and a
        cell of several lines counts once). And the names by id that the label column's `ClassLabel` declares, or None.

    Raises:
        RecipeError: missing, empty or unreadable file, non-UTF-8 bytes (line), broken line (line), or missing column.
    """
    path, source = Path(path), str(path)
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if os.path.isdir(path):
        table = tables.read_saved_dataset(path)
    elif suffix == ".parquet":
        table = tables.parse_parquet(source, tables.read_bytes(path))
    elif suffix in (".jsonl", ".ndjson", ".json"):
        table = tables.parse_json(source, tables.decode_text(source, tables.read_bytes(path)), suffix)
    else:
        usual = {field: columns[field] for field in USUAL_COLUMNS if field in columns}
        text = tables.decode_text(source, tables.read_bytes(path))
        table = tables.parse_csv(
            source, text, suffix, file_format, lambda row: all(match_column(row, *item) for item in usual.items())
        )
    return take_columns(source, table, columns)


def expand_paths(paths: Sequence[str], field: str) -> list[str]:
    """Return files, folders and globs (`**` too) as paths: globs sorted, each path once.

    Raises:
        RecipeError: a glob that matches nothing.
    """
    found: list[str] = []
    for path in paths:
        if os.path.exists(path) or not glob.has_magic(path):
            found.append(path)  # a file may be called a[1].csv
            continue
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise RecipeError(f"{field} {path!r} matches no file: check the pattern, and the folder it starts from")
        found += matches
    return list(dict.fromkeys(found))


def match_column(columns: Sequence[str], field: str, wanted: str | None) -> str | None:
    """Return the wanted column if it exists; with none wanted, the first usual name that does, in any case."""
    if wanted is not None:
        return clean_name(wanted) if clean_name(wanted) in columns else None
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in USUAL_COLUMNS[field] if name in by_name), None)


def find_columns(source: str, columns: list[str], wanted: Mapping[str, str | None]) -> dict[str, int]:
    """Return the position of each wanted column.

    Raises:
        RecipeError: a column that does not exist, or exists twice.
    """
    found: dict[str, str] = {}
    # Those with a name first: what one field names (`title` as text_pair) is not another's usual name.
    for field in sorted(wanted, key=lambda field: wanted[field] is None):
        name = wanted[field]
        free = [column for column in columns if column not in found.values()] if name is None else columns
        column = match_column(free, field, name)
        if column is None:
            usual = ", ".join(USUAL_COLUMNS.get(field, ())[:4])
            missing = f"no column {name!r}" if name else f"no column with a usual name ({usual} ...)"
            shown = ", ".join(repr(column[:40]) for column in columns[:12])
            raise RecipeError(
                f"{source}: {missing} among {shown}: name it with --{field}_column, or, if row 1 is no header,"
                " with --column_names"
            )
        if columns.count(column) > 1:
            raise RecipeError(f"{source}: two columns are called {column!r}: rename one of them")
        found[field] = column
    return {field: columns.index(column) for field, column in found.items()}


def take_columns(source: str, table: Table, columns: Mapping[str, str | None]) -> tuple[pd.DataFrame, list[str] | None]:
    """Return what read_file returns, from a table of any format."""
    if not len(table.rows):
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")
    wanted = {field: name for field, name in columns.items() if name is not None or field in USUAL_COLUMNS}
    positions = find_columns(source, table.columns, wanted)
    values = {}
    for field, position in positions.items():
        cells, names = table.cells(position), table.label_names.get(position)
        if names is not None:  # -1 stands for no label
            cells = [names[cell] if cell is not None and 0 <= cell < len(names) else None for cell in cells]
        values[field] = [clean_text(cell) for cell in cells]
    frame = pd.DataFrame({**values, "row": table.rows}, dtype=object)
    return frame, table.label_names.get(positions.get("label", -1))
