"""Readers: the files and datasets that arguments name, into checked frames of texts and labels."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.files import FileFormat, dataset_batches, load_dataset
from recipe.data.rows import check_rows, check_texts
from recipe.data.store import TextStore
from recipe.data.tables import Table, Wanted, cells_at, column_values, find_columns, make_table, open_batches, read_file
from recipe.data.texts import PAIR_SEPARATOR, join_pairs
from recipe.errors import RecipeError

logger = logging.getLogger(__name__)

# The splits, and the names that hub datasets give them.
HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)


def read_splits(args: DataArguments) -> tuple[pd.DataFrame, list[str] | None, TextStore]:
    """Return the checked rows of the splits that are given, the label names where the training data declares them, and
    the texts.

    The frame holds `text`, `label`, `row`, `source`, `split` and, where asked for, `group` and (of training rows)
    `time`; labels are strings. It is in the order of the splits and their files; its index is the position of a row's
    text in the store, and `text` that of the first row with the same text.
    """
    store = TextStore(args.text_pair_separator)
    read = {} if args.train_file else read_dataset_splits(args, store)
    for split in SPLITS:
        if paths := getattr(args, f"{split}_file"):
            read[split] = read_files(paths, f"{split}_file", wanted_columns(args, split), FileFormat.of(args), store)
    parts = {split: read[split].frame for split in SPLITS if split in read}
    rows = pd.concat([part.assign(split=pd.Series(split, part.index, dtype=object)) for split, part in parts.items()])
    return rows.assign(text=store.first_copies()[rows.index]), read["train"].label_names, store


def wanted_columns(args: DataArguments, split: str) -> Wanted:
    wanted = {field: getattr(args, f"{field}_column") for field in ("text", "label", "text_pair", "group", "time")}
    return wanted if split == "train" else {**wanted, "time": None}  # only training rows are split by time


def read_files(paths: Sequence[str], field: str, wanted: Wanted, file_format: FileFormat, store: TextStore) -> Table:
    """Return the checked rows of files and globs, and the label names that they declare (None where they differ).

    Their texts go into the store; the frame's index tells their positions there.
    """
    parts = {path: read_file(path, wanted, file_format, store) for path in expand_paths(paths, field)}
    frame = pd.concat([check_stored_rows(part.frame, path) for path, part in parts.items()])
    first, *others = [part.label_names for part in parts.values()]
    return Table(frame, first if all(names == first for names in others) else None)


def check_stored_rows(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return the rows of check_rows without what stands in place of their texts."""
    return check_rows(rows, source).drop(columns=["text", "text_pair"], errors="ignore")


def read_dataset_splits(args: DataArguments, store: TextStore) -> dict[str, Table]:
    """Return the same for each split of dataset_name: of the hub, a folder of files, or one that save_to_disk wrote."""
    name = args.dataset_name
    dataset = load_dataset(name, args.dataset_config_name)
    dataset = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    given = {split: alias for split, names in HUB_SPLITS.items() for alias in reversed(names) if alias in dataset}
    read = {}
    for split, alias in given.items():
        source = f"{name} ({alias})"
        batches, wanted = dataset_batches(source, dataset[alias]), wanted_columns(args, split)
        frame, label_names = make_table(source, batches, wanted, store=store)
        if split == "test" and frame["label"].isna().all():
            why = "has no labels (benchmarks keep them secret): a test split is made of training rows instead"
            logger.warning("%s %s", source, why)
        else:
            read[split] = Table(check_stored_rows(frame, source), label_names)
    if "train" not in read:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    return read


def read_texts(
    path: str | Path, wanted: Wanted, file_format: FileFormat = FileFormat(), separator: str = PAIR_SEPARATOR
) -> Iterator[tuple[list[str], dict[str, list]]]:
    """Yield a file's texts in batches, to be classified: pairs joined; a missing cell is an empty text.

    Args:
        wanted: `text` and perhaps `text_pair` -> the column's name.
        separator: between the texts of a pair.

    Yields:
        The texts, and the file's other columns, by their names.
    """
    source, first, unreadable = str(path), None, set()
    for batch in open_batches(path, wanted, file_format):
        if first is None:  # later objects of JSON lines may lack a key
            first = find_columns(source, batch.names, wanted, len(batch.rows))
        columns = {field: column_values(source, batch, name, file_format) for field, name in first.items()}
        frame = pd.DataFrame({**columns, "row": batch.rows, "source": source}, dtype=object)
        check_texts(frame)
        texts = join_pairs(frame.mask(frame.isna(), ""), separator)["text"].tolist()
        others: dict[str, list] = {}
        for position, name in enumerate(batch.names):
            if name in first.values() or name in unreadable:
                continue
            copies = sum(other == name for other in batch.names[:position])
            try:  # a second column of a name is called as pandas calls it
                others[f"{name}.{copies}" if copies else name] = cells_at(source, batch, position, file_format)
            except RecipeError as error:  # such as the bytes of a picture beside the texts
                logger.warning("%s (the output is without it)", error)
                unreadable.add(name)
        yield texts, others
    if first is None:
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")


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
