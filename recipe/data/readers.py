"""Readers: the files and datasets that arguments name, into checked frames of texts and labels."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from tqdm.auto import tqdm

from recipe.arguments import DataArguments
from recipe.data.columns import (
    TEXT_AND_LABEL,
    USUAL_COLUMNS,
    Wanted,
    clean_name,
    find_columns,
    match_columns,
    named_columns,
    text_fields,
    wanted_texts,
)
from recipe.data.files import Batch, FileFormat, dataset_batches, files_of_dataset, load_dataset, read_batches
from recipe.data.rows import check_rows, check_texts, name_rows, source_of
from recipe.data.store import TextStore
from recipe.data.texts import PAIR_SEPARATOR, clean_text, join_texts
from recipe.errors import RecipeError, as_recipe_error

logger = logging.getLogger(__name__)

# The splits, and the names that datasets and `split` columns give them.
SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(SPLIT_NAMES)


class Table(NamedTuple):
    """The wanted columns of a file, or of several.

    frame: a column for each field, as the file holds it (None for a missing cell), and `row`, its number in the file.
    label_names: by id, where the label column declares them (`ClassLabel`).
    columns: the column of each field, as the file names it.
    """

    frame: pd.DataFrame
    label_names: list[str] | None = None
    columns: Mapping[str, str] = {}


def read_splits(args: DataArguments) -> tuple[Table, TextStore]:
    """Return the checked rows of the splits that are given, and the store of their texts.

    The frame holds `text`, `label`, `row`, `source`, `split` and, where asked for, `group`, `missing` and (of training
    rows) `time`; labels are strings. It is in the order of the splits and their files; its index is the position of a
    row's text in the store, and `text` that of the first row with the same text. Label names and columns are the training
    data's.
    """
    store, file_format = TextStore(args.text_pair_separator), FileFormat.of(args)
    files = {split: getattr(args, f"{split}_file") for split in SPLITS}
    dataset = {} if args.train_file else load_dataset_splits(args.dataset_name, args.dataset_config_name)
    wanted: dict[str, Any] = {**wanted_texts(args.text_column, args.text_pair_column), "label": args.label_column}
    wanted |= {"group": args.group_column} if args.group_column else {}
    tables = {}
    for split in SPLITS:
        more = {"time": args.time_column} if args.time_column and split == "train" else {}  # what is split by time
        source, content = (None, files[split]) if files[split] else dataset.get(split, (None, None))
        if content is None:
            continue
        if split == "test" and source and lacks_labels(content, wanted, file_format):
            why = "has no labels (benchmarks keep them secret): a test split is made of training rows instead"
            logger.warning("%s %s", source, why)
            continue
        if isinstance(content, list):
            more |= {"split": None} if split == "train" else {}
            table = read_files(content, f"{split}_file", wanted | more, file_format, store, args.drop_missing)
        else:
            table = make_table(source, dataset_batches(content), wanted | more, file_format, store)
            frame = check_rows(table.frame, source, table.columns, args.drop_missing)
            table = table._replace(frame=frame)
        tables[split] = table._replace(frame=table.frame.assign(split=splits_of(table.frame, split, args)))
        if split == "train":  # other files may call a column otherwise
            for field in USUAL_COLUMNS.keys() & wanted.keys() - named_columns(wanted).keys():
                wanted[field] = (clean_name(table.columns[field]).lower(), *USUAL_COLUMNS[field])
    rows = pd.concat([table.frame for table in tables.values()])
    joined = [field for field in text_fields(rows.columns) if field != "text"]  # by the store
    rows = rows.drop(columns=joined)
    if (empty := rows["text"].notna() & store.are_empty()[rows.index]).any():
        if args.drop_missing:
            rows["missing"] |= empty
        else:
            where = f"{source_of(rows[empty])}: {name_rows(rows['row'][empty].tolist())} an empty text"
            logger.warning("%s, read as <|endoftext|>: --drop_missing true drops such rows", where)
    return tables["train"]._replace(frame=rows.assign(text=store.first_copies()[rows.index])), store


def lacks_labels(content: list[str] | datasets.Dataset, wanted: Wanted, file_format: FileFormat) -> bool:
    """Return whether a dataset's test split has no label, or -1 alone, in place of each."""
    files = content if isinstance(content, list) else [None]
    for file in files:
        batches = dataset_batches(content) if file is None else read_batches(Path(file), wanted, file_format)
        for batch in batches:
            column = match_columns(batch.names, {"label": wanted["label"]})["label"]
            cells = [] if column is None else cells_at(str(file), batch, batch.names.index(column), file_format)
            if any(cell not in (None, -1, "-1") for cell in cells):
                return False
    return True


def splits_of(frame: pd.DataFrame, split: str, args: DataArguments) -> pd.Series:
    """Return the split of each row of a file: that of its option, or what a column `split` of a training file says."""
    one = pd.Series(split, frame.index, dtype=object)
    if split != "train" or "split" not in frame:
        return one
    known = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    said = frame["split"].map(lambda cell: known.get(str(cell).strip().lower().rpartition("_")[2]))  # of oos_train too
    source = source_of(frame)
    if said.isna().any() or "train" not in {*said}:
        logger.warning(
            "%s: the column split is not used: it does not say train, validation or test of each row", source
        )
        return one
    if args.validation_file or args.test_file:
        logger.warning("%s: the column split is not used, since validation or test files are given", source)
        return one
    logger.info("%s: the rows of each split are those of the column split", source)
    return said


def load_dataset_splits(name: str, configuration: str | None) -> dict[str, tuple[str, list[str] | datasets.Dataset]]:
    """Return the source of each split of a dataset, and its files, which are read as those of train_file, or its rows."""
    dataset: Any = files_of_dataset(name, configuration) or load_dataset(name, configuration)
    dataset = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    if "train" not in dataset:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    given = {split: alias for split, names in SPLIT_NAMES.items() for alias in reversed(names) if alias in dataset}
    if unused := sorted(set(dataset) - set(given.values())):
        logger.warning("dataset %r: its splits %s are not used", name, ", ".join(unused))
    return {split: (f"{name} ({alias})", dataset[alias]) for split, alias in given.items()}


def read_files(
    paths: Sequence[str],
    field: str,
    wanted: Wanted,
    file_format: FileFormat,
    store: TextStore,
    drop_missing: bool | None = None,
) -> Table:
    """Return the checked rows of files and globs, and the label names that they declare (None where they differ).

    Their texts go into the store; the frame's index tells their positions there. `drop_missing` is as in check_rows.
    """
    parts = {path: read_file(path, wanted, file_format, store) for path in expand_paths(paths, field)}
    frame = pd.concat([check_rows(part.frame, path, part.columns, drop_missing) for path, part in parts.items()])
    first, *others = parts.values()
    same = all(other.label_names == first.label_names for other in others)
    return Table(frame, first.label_names if same else None, first.columns)


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
    parts, label_names, columns = [], None, {}
    for batch, columns, cells in read_columns(source, batches, wanted, file_format):
        label_names = names_by_id(batch.features.get(columns.get("label")))
        cells = store.add(cells) if store else cells
        parts.append(pd.DataFrame(cells, dtype=object).assign(row=batch.rows))
    frame = pd.concat(parts, ignore_index=True)
    if store:
        frame.index = pd.RangeIndex(store.size - len(frame), store.size)
    return Table(frame, label_names, {field: clean_name(name) for field, name in columns.items()})


def read_columns(
    source: str, batches: Iterable[Batch], wanted: Wanted, file_format: FileFormat
) -> Iterator[tuple[Batch, dict[str, str], dict[str, list[Any]]]]:
    """Yield each batch, the names of the wanted columns, which its first rows tell, and their cells; refuse no rows."""
    columns: dict[str, str] = {}
    for batch in batches:
        if not len(batch.rows):
            continue
        is_first = not columns
        columns = columns or find_columns(source, batch.names, wanted)
        # Later objects of JSON lines may lack a key.
        positions = {field: batch.names.index(x) if x in batch.names else None for field, x in columns.items()}
        cells = {field: cells_at(source, batch, x, file_format) for field, x in positions.items()}
        if is_first:
            warn_of_guesses(source, batch, columns, cells, wanted)
        yield batch, columns, cells
    if not columns:
        raise RecipeError(f"{source}: no rows under the header: give a file with at least one text")


def warn_of_guesses(
    source: str, batch: Batch, columns: dict[str, str], cells: dict[str, list[Any]], wanted: Wanted
) -> None:
    """Warn of a column that was found by a usual name where others might be meant."""
    for field in columns.keys() & {"text", "label"} - named_columns(wanted).keys():
        others = [
            name
            for name in batch.names
            if clean_name(name).lower() in USUAL_COLUMNS[field] and name not in columns.values()
        ]
        if field == "text":
            others += [
                name for name in longer_columns(batch, cells["text"]) if name not in [*columns.values(), *others]
            ]
        if others:
            logger.warning(
                "%s: %ss are read from %r, and %s might be meant: --%s_column decides",
                source,
                field,
                columns[field],
                " or ".join(map(repr, others[:3])),
                field,
            )


def longer_columns(batch: Batch, texts: Sequence[Any]) -> list[str]:
    """Return the columns of strings that are, on average, over twice as long as the texts."""

    def length(cells: Any) -> float:
        values = cells if isinstance(cells, list) else cells.to_pylist()
        return float(np.mean([len(cell) for cell in values if isinstance(cell, str)] or [0]))

    typical = length(list(texts))
    return [name for name, cells in zip(batch.names, batch.columns, strict=True) if length(cells) > 2 * typical]


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
    if names := dict(enumerate(names_by_id(batch.features.get(name)) or ())):  # -1 stands for no label
        cells = [[*map(names.get, cell)] if isinstance(cell, list) else names.get(cell) for cell in cells]
    return [clean_text(cell) for cell in cells]


def names_by_id(feature: Any) -> list[str] | None:
    """Return the label names that a column, or the lists in it, declare."""
    feature = getattr(feature, "feature", feature)  # of the items of a list
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def read_texts(
    path: str | Path, wanted: Wanted, file_format: FileFormat = FileFormat(), separator: str = PAIR_SEPARATOR
) -> Iterator[tuple[list[str], dict[str, list]]]:
    """Yield a file's texts in batches, to be classified, and its other columns by their names.

    A missing cell is an empty text; `separator` joins several texts of a row.
    """
    source, unreadable = str(path), set()
    batches = read_batches(Path(path), wanted, file_format)
    for batch, columns, cells in read_columns(source, batches, wanted, file_format):
        frame = pd.DataFrame({**cells, "row": batch.rows, "source": source}, dtype=object)
        check_texts(frame, columns)
        parts = [cells[field] for field in text_fields(cells)]
        texts = (
            [join_texts(of_row, separator) or "" for of_row in zip(*parts, strict=True)]
            if len(parts) > 1
            else [text if isinstance(text, str) else "" for text in cells["text"]]
        )
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
        yield texts, others


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
