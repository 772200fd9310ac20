"""Readers: the files and datasets that arguments name, into checked frames of texts and labels."""

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import pandas as pd

from recipe.arguments import DataArguments
from recipe.data import tables
from recipe.data.rows import check_rows, check_texts
from recipe.data.tables import FileFormat, Table, Wanted
from recipe.data.texts import PAIR_SEPARATOR, join_pairs
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

# The splits, and the names that hub datasets give them.
HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)
TEXT_AND_LABEL = {"text": None, "label": None}  # both found by a usual name


def read_splits(args: DataArguments) -> tuple[pd.DataFrame, list[str] | None]:
    """Return the checked rows of the splits that are given, and the label names where the training data declares them.

    The frame holds `text`, `label`, `row`, `source`, `split` and, where asked for, `group` and (of training rows)
    `time`; labels are strings. Its index is unique, in the order of the splits and their files.
    """
    read = {} if args.train_file else read_dataset_splits(args)
    for split in SPLITS:
        if paths := getattr(args, f"{split}_file"):
            read[split] = read_files(paths, f"{split}_file", wanted_columns(args, split), FileFormat.of(args))
    rows = [read[split].frame.assign(split=split) for split in SPLITS if split in read]
    return join_pairs(pd.concat(rows, ignore_index=True), args.text_pair_separator), read["train"].label_names


def wanted_columns(args: DataArguments, split: str) -> Wanted:
    wanted = {field: getattr(args, f"{field}_column") for field in ("text", "label", "text_pair", "group", "time")}
    return wanted if split == "train" else {**wanted, "time": None}  # only training rows are split by time


def read_files(paths: Sequence[str], field: str, wanted: Wanted, file_format: FileFormat) -> Table:
    """Return the checked rows of files and globs, and the label names that they declare (None where they differ)."""
    parts = {path: read_file(path, wanted, file_format) for path in expand_paths(paths, field)}
    frame = pd.concat([check_rows(part.frame, path) for path, part in parts.items()], ignore_index=True)
    first, *others = [part.label_names for part in parts.values()]
    return Table(frame, first if all(names == first for names in others) else None)


def read_dataset_splits(args: DataArguments) -> dict[str, Table]:
    """Return the same for each split of dataset_name: of the hub, a folder of files, or one that save_to_disk wrote."""
    name = args.dataset_name
    dataset = tables.load_dataset(name, args.dataset_config_name)
    dataset = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    given = {split: alias for split, names in HUB_SPLITS.items() for alias in reversed(names) if alias in dataset}
    read = {}
    for split, alias in given.items():
        source = f"{name} ({alias})"
        frame, label_names = tables.dataset_table(source, dataset[alias], wanted_columns(args, split))
        if split == "test" and frame["label"].isna().all():
            why = "has no labels (benchmarks keep them secret): a test split is made of training rows instead"
            logger.warning("%s %s", source, why)
        else:
            read[split] = Table(check_rows(frame, source), label_names)
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
    """Return the texts of a file, to be classified: one for each row, pairs joined; a missing cell is an empty text."""
    frame = read_file(path, {"text": text_column, "text_pair": text_pair_column}, file_format).frame
    check_texts(frame.assign(source=str(path)))
    return join_pairs(frame.mask(frame.isna(), ""), text_pair_separator)["text"].tolist()


def read_file(path: str | Path, wanted: Wanted = TEXT_AND_LABEL, file_format: FileFormat = FileFormat()) -> Table:
    """Read a .csv, .tsv, .jsonl, .ndjson, .json (one object a line, or an array of objects) or .parquet file, each also
    as .gz, or a folder that `save_to_disk` wrote for a Dataset; other names are read as CSV or TSV.

    Args:
        wanted: what to take, as `text`, `label`, `text_pair`, `group` or `time` -> the column's name; `text` and
            `label` are found by a usual name where it is None, the others are left out.

    Returns:
        A frame with those columns, as the file holds them (None for a missing cell), and `row`: JSON lines by line; JSON
        arrays, Parquet and saved datasets from 1; CSV by row, the header being row 1 (blank lines do not count, and a
        cell of several lines counts once). And the names by id that the label column's `ClassLabel` declares, or None.

    Raises:
        RecipeError: missing, empty or unreadable file, non-UTF-8 bytes (line), broken line (line), or missing column.
    """
    path = Path(path)
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if os.path.isdir(path):
        return tables.read_saved_dataset(path, wanted)
    if suffix == ".parquet":
        return tables.read_parquet(path, wanted)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return tables.read_json(path, suffix, wanted)
    return tables.read_csv(path, suffix, file_format, wanted)


def expand_paths(paths: Sequence[str], field: str) -> list[str]:
    """Return files, folders and globs (`**` too) as paths: globs sorted, each path once; refuse a glob without a match."""
    found: list[str] = []
    for path in paths:
        # A file may be called a[1].csv; what is no pattern and not there is refused when it is read.
        is_path = os.path.exists(path) or not glob.has_magic(path)
        matches = [path] if is_path else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise RecipeError(f"{field} {path!r} matches no file: check the pattern, and the folder it starts from")
        found += matches
    return list(dict.fromkeys(found))
