"""Readers: the files and datasets that arguments name, into checked frames of texts and labels."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from tqdm.auto import tqdm

from recipe.arguments import DataArguments
from recipe.data.columns import TEXT_AND_LABEL, Wanted, find_columns
from recipe.data.files import Batch, FileFormat, dataset_batches, load_dataset, read_batches
from recipe.data.rows import check_rows, check_texts
from recipe.data.store import TextStore
from recipe.data.texts import PAIR_SEPARATOR, clean_text
from recipe.errors import RecipeError, as_recipe_error

logger = logging.getLogger(__name__)

# The splits, and the names that hub datasets give them.
HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)


class Table(NamedTuple):
    """The wanted columns of a file.

    frame: a column for each field, as the file holds it (None for a missing cell), and `row`, its number in the file.
    label_names: by id, where the label column declares them (`ClassLabel`).
    """

    frame: pd.DataFrame
    label_names: list[str] | None = None


def read_splits(args: DataArguments) -> tuple[pd.DataFrame, list[str] | None, TextStore]:
    """Return the checked rows of the splits that are given, the label names that the training data declares, the texts.

    The frame holds `text`, `label`, `row`, `source`, `split` and, where asked for, `group` and (of training rows)
    `time`; labels are strings. It is in the order of the splits and their files; its index is the position of a row's
    text in the store, and `text` that of the first row with the same text.
    """
    store, file_format = TextStore(args.text_pair_separator), FileFormat.of(args)
    dataset = {} if args.train_file else load_dataset_splits(args)
    parts, declared = [], {}
    for split in SPLITS:
        wanted = {field: getattr(args, f"{field}_column") for field in ("text", "label", "text_pair", "group", "time")}
        if split != "train":
            wanted["time"] = None  # only training rows are split by time
        if paths := getattr(args, f"{split}_file"):
            frame, declared[split] = read_files(paths, f"{split}_file", wanted, file_format, store)
        elif split in dataset:
            source, rows = dataset[split]
            frame, declared[split] = make_table(source, dataset_batches(rows), wanted, store=store)
            if split == "test" and frame["label"].isna().all():
                why = "has no labels (benchmarks keep them secret): a test split is made of training rows instead"
                logger.warning("%s %s", source, why)
                continue
            frame = check_rows(frame, source)
        else:
            continue
        parts.append(frame.assign(split=pd.Series(split, frame.index, dtype=object)))
    rows = pd.concat(parts).drop(columns="text_pair", errors="ignore")  # whose texts the store has joined
    return rows.assign(text=store.first_copies()[rows.index]), declared["train"], store


def load_dataset_splits(args: DataArguments) -> dict[str, tuple[str, datasets.Dataset]]:
    """Return the source and the rows of each split of dataset_name that no file replaces."""
    name = args.dataset_name
    dataset = load_dataset(name, args.dataset_config_name)
    dataset = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    if "train" not in dataset:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    given = {split: alias for split, names in HUB_SPLITS.items() for alias in reversed(names) if alias in dataset}
    return {split: (f"{name} ({alias})", dataset[alias]) for split, alias in given.items()}


def read_files(paths: Sequence[str], field: str, wanted: Wanted, file_format: FileFormat, store: TextStore) -> Table:
    """Return the checked rows of files and globs, and the label names that they declare (None where they differ).

    Their texts go into the store; the frame's index tells their positions there.
    """
    parts = {path: read_file(path, wanted, file_format, store) for path in expand_paths(paths, field)}
    frame = pd.concat([check_rows(part.frame, path) for path, part in parts.items()])
    first, *others = [part.label_names for part in parts.values()]
    return Table(frame, first if all(names == first for names in others) else None)


def read_file(
    path: str | Path,
    wanted: Wanted = TEXT_AND_LABEL,
    file_format: FileFormat = FileFormat(),
    store: TextStore | None = None,
) -> Table:
    """Read the wanted columns of a file (see read_batches), all of it; the store, if any, takes the texts."""
    batches = read_batches(Path(path), wanted, file_format)
    batches = tqdm(batches, desc=f"Reading {path}", unit=" batches", delay=0.5, leave=False)
    return make_table(str(path), batches, wanted, file_format, store)


def make_table(
    source: str,
    batches: Iterable[Batch],
    wanted: Wanted,
    file_format: FileFormat = FileFormat(),
    store: TextStore | None = None,
) -> Table:
    """Return the wanted columns of the batches.

    Where a store takes the texts, the frame holds "" for each, and its index is their positions in the store.
    """
    parts, label_names = [], None
    for batch, columns, cells in read_columns(source, batches, wanted, file_format):
        feature = batch.features.get(columns.get("label"))
        label_names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
        cells = store.add(cells) if store else cells
        parts.append(pd.DataFrame(cells, dtype=object).assign(row=batch.rows))
    frame = pd.concat(parts, ignore_index=True)
    if store:
        frame.index = pd.RangeIndex(store.size - len(frame), store.size)
    return Table(frame, label_names)


def read_columns(
    source: str, batches: Iterable[Batch], wanted: Wanted, file_format: FileFormat
) -> Iterator[tuple[Batch, dict[str, str], dict[str, list[Any]]]]:
    """Yield each batch, the names of the wanted columns, which its first rows tell, and their cells; refuse no rows."""
    columns: dict[str, str] = {}
    for batch in batches:
        if not len(batch.rows):
            continue
        columns = columns or find_columns(source, batch.names, wanted)
        # Later objects of JSON lines may lack a key.
        positions = {field: batch.names.index(x) if x in batch.names else None for field, x in columns.items()}
        yield batch, columns, {field: cells_at(source, batch, x, file_format) for field, x in positions.items()}
    if not columns:
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")


def cells_at(source: str, batch: Batch, position: int | None, file_format: FileFormat) -> list[Any]:
    """Return the cells of the column at a position as Python values, None for each without one; of a ClassLabel, names."""
    if position is None:
        return [None] * len(batch.rows)
    name, cells = batch.names[position], batch.columns[position]
    if not isinstance(cells, list):
        # Bytes that are no text, or times outside of Python's range.
        errors = (ValueError, OverflowError, pa.ArrowException)
        with as_recipe_error(errors, f"{source}: column {name!r} cannot be read", "write it again"):
            if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
                cells = cells.cast(pa.large_string())  # strings that their writer did not mark as such
            if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
                largest = pa.compute.max(pa.compute.binary_length(cells)).as_py() or 0
                if largest > file_format.max_row:
                    large = f"column {name!r} has a text of {largest / 1e6:.0f} MB"
                    raise RecipeError(f"{source}: {large}: cut it, or raise --max_row_mb")
            cells = cells.to_pylist()
    feature = batch.features.get(name)
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))
        cells = [names.get(cell) for cell in cells]  # -1 stands for no label
    return [clean_text(cell) for cell in cells]


def read_texts(
    path: str | Path, wanted: Wanted, file_format: FileFormat = FileFormat(), separator: str = PAIR_SEPARATOR
) -> Iterator[tuple[list[str], dict[str, list]]]:
    """Yield a file's texts in batches, to be classified, and its other columns by their names.

    A missing cell is an empty text; `separator` joins the texts of a pair, where `text_pair` is wanted.
    """
    source, unreadable = str(path), set()
    batches = read_batches(Path(path), wanted, file_format)
    for batch, columns, cells in read_columns(source, batches, wanted, file_format):
        frame = pd.DataFrame({**cells, "row": batch.rows, "source": source}, dtype=object)
        check_texts(frame)
        frame = frame.mask(frame.isna(), "")
        texts = frame["text"] + separator + frame["text_pair"] if "text_pair" in frame else frame["text"]
        others: dict[str, list] = {}
        for position, name in enumerate(batch.names):
            if name in columns.values() or name in unreadable:
                continue
            copies = batch.names[:position].count(name)
            try:  # a second column of a name is called as pandas calls it
                others[f"{name}.{copies}" if copies else name] = cells_at(source, batch, position, file_format)
            except RecipeError as error:  # such as the bytes of a picture beside the texts
                logger.warning("%s (the output is without it)", error)
                unreadable.add(name)
        yield texts.tolist(), others


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
