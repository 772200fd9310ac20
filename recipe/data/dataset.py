"""Data sets: texts and labels read, checked and split into training, validation and test; saved with a run and read back."""

import json
import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from recipe.arguments import DataArguments
from recipe.atomic import write_files, write_json
from recipe.data.columns import Wanted, text_fields, wanted_texts
from recipe.data.files import FileFormat
from recipe.data.leakage import (
    drop_conflicts,
    drop_group_overlaps,
    drop_missing,
    find_conflicts,
    remove_duplicates,
    report_conflicts,
)
from recipe.data.readers import SPLITS, read_files, read_splits
from recipe.data.rows import (
    canonical_name,
    check_known_labels,
    check_label_coverage,
    name_labels,
    refuse_marks_of_none,
    refuse_several_in_one,
    spell_labels,
)
from recipe.data.run_config import read_run_config, reading_of
from recipe.data.splits import draw_samples, drop_rare_labels, make_missing_splits, undersample
from recipe.data.store import TextStore
from recipe.data.texts import PAIR_SEPARATOR
from recipe.errors import RecipeError, as_recipe_error

logger = logging.getLogger(__name__)

SPLITS_FOLDER, SUMMARY_FILE = "splits", "data_summary.json"  # in a run's output_dir
COLUMNS = ("text", "label", "row", "source")  # of saved splits; a DatasetDict of the user's own may lack the last two
REMOVALS = (
    "missing_dropped",
    "rare_dropped",
    "conflicts_dropped",
    "group_rows_dropped",
    "duplicates_removed",
    "undersampled",
    "over_the_limit",
)
SHOWN = 8  # labels that have a column of their own in the table


class TextSplits(datasets.DatasetDict):
    """The splits train, validation and test, each with `text` (string) and `label` (ClassLabel).

    Those of load_splits also have `row` and `source`: the number of each row in its file, and the file.

    `summary` counts, as plain dicts, what was read, removed and split:
        rows_read: split -> file -> rows, of the splits that were given.
        conflicts: texts that occur with different labels.
        each of REMOVALS: split -> rows removed, where any were; before splits are made they count as `train`.
        texts, labels: split -> texts left; split -> label -> texts left, every label in the order of its id.
        columns: the options text_column and label_column as they were found in the training data.
    """

    summary: dict[str, Any]

    def __init__(self, splits: Mapping[str, datasets.Dataset], summary: dict[str, Any] | None = None):
        super().__init__(splits)
        self.summary = summary or {}

    @property
    def label_names(self) -> list[str]:
        return list(self["train"].features["label"].names)


class SplitRows(NamedTuple):
    """The rows of all splits in one frame, before they are datasets of their own.

    frame: `text` (the same number for the same text), `label` (its name), `row` and `source` (number and file),
        `split`, and `group` where asked for; its index is the position of each row's text in the store.
    """

    frame: pd.DataFrame
    label_names: list[str]
    summary: dict[str, Any]
    store: TextStore


def load_splits(args: DataArguments, label_names: list[str] | None = None) -> TextSplits:
    """Load texts and labels as three splits; the same rows always give the same splits and label ids.

    `label_names` are the labels by id of a head that is kept, used where they hold all of the data's.
    """
    rows, names, summary, store = load_rows(args, label_names)
    return TextSplits({split: store.to_dataset(rows[rows["split"] == split], names) for split in SPLITS}, summary)


def load_rows(args: DataArguments, label_names: list[str] | None = None, make_splits: bool = True) -> SplitRows:
    """Load the rows of load_splits, of which it makes its datasets; without `make_splits`, those of the splits given."""
    # 1. The checked rows of every split that is given (files, or a dataset of the hub or the disk).
    table, store = read_splits(args)
    rows = table.frame
    sources = rows.groupby("split", sort=False)["source"]
    read = {split: files.value_counts(sort=False).to_dict() for split, files in sources}
    summary: dict[str, Any] = {"rows_read": read, "conflicts": 0, **{step: {} for step in REMOVALS}}
    summary["columns"] = found_columns(table.columns, args)

    def keep(step: str, left: pd.DataFrame) -> None:
        """Go on with the rows that a step has left, and count those that it has removed."""
        nonlocal rows
        for split, count in rows["split"].drop(left.index).value_counts(sort=False).items():
            summary[step][split] = summary[step].get(split, 0) + count
        rows = left

    # 2. Labels: one for each text, in one spelling, and one order of ids.
    keep("missing_dropped", drop_missing(rows, find_missing(rows, args.missing_label)))
    if args.missing_label is None:
        refuse_marks_of_none(rows)
    if args.label_separator != "none":
        refuse_several_in_one(rows)
    rows, names = name_labels(rows, table.label_names, label_names, args.normalize_labels)
    if args.time_column:
        from recipe.data.group_and_time_splits import parse_times

        rows = rows.assign(time=parse_times(rows[rows["split"] == "train"]))

    # 3. Leaks: texts with several labels (dropped where asked for), groups and exact copies that are in two splits.
    if args.group_column:  # before copies go, since these join groups
        from recipe.data.group_and_time_splits import join_groups

        rows = rows.assign(group=join_groups(rows))
    conflicts = find_conflicts(rows)
    summary["conflicts"] = conflicts["text"].nunique()
    report_conflicts(conflicts, args, store)
    if args.drop_conflicts:
        keep("conflicts_dropped", drop_conflicts(rows, conflicts))
    if args.group_column:
        keep("group_rows_dropped", drop_group_overlaps(rows))
    if args.remove_duplicates:
        keep("duplicates_removed", remove_duplicates(rows))

    # 4. The validation and test sets that were not given are split off the training rows; samples, where asked for.
    if args.rare_labels == "drop" and make_splits:
        keep("rare_dropped", drop_rare_labels(rows, args))
        left = {*rows["label"]}
        names = names if names == label_names else [name for name in names if name in left]
    if args.undersample == "all":
        keep("undersampled", undersample(rows, names, args.split_seed))
    if not make_splits:
        return SplitRows(rows, names, summary, store)
    rows = make_missing_splits(rows, args)
    if args.group_column:  # a split by time cuts through groups
        keep("group_rows_dropped", drop_group_overlaps(rows))
    if args.undersample == "train":
        keep("undersampled", undersample(rows, names, args.split_seed))
    keep("over_the_limit", draw_samples(rows, args))

    counts = rows.value_counts(["split", "label"]).unstack().reindex(index=SPLITS, columns=names).fillna(0).astype(int)
    check_label_coverage(counts)
    summary |= {"texts": counts.sum(axis=1).to_dict(), "labels": counts.to_dict("index")}
    return SplitRows(rows, names, summary, store)


def find_missing(rows: pd.DataFrame, missing_label: str | None) -> pd.Series:
    """Return which rows (bool) are dropped: marked by `drop_missing`, or with the label that stands for none."""
    missing = rows["missing"] if "missing" in rows else pd.Series(False, rows.index)
    if missing_label in (None, "none"):
        return missing
    stands_for_none = rows["label"] == canonical_name(missing_label)
    if not stands_for_none.any():
        logger.info("missing_label is %r, a label that no row has", missing_label)
    return missing | stands_for_none


def found_columns(columns: Mapping[str, str], args: DataArguments) -> dict[str, Any]:
    """Return the options that name the columns which were found, as a run and its model remember them."""
    texts = [columns[field] for field in text_fields(columns)]
    return {"text_column": texts[:-1] if args.text_pair_column else texts, "label_column": columns["label"]}


def load_texts_for_model(
    paths: list[str],
    field: str,
    label_names: list[str],
    model_dir: str | Path,
    wanted: Wanted | None = None,
    file_format: FileFormat | None = None,
) -> datasets.Dataset:
    """Load files of texts and labels for a saved model, read as its run_config.yaml tells.

    Args:
        field: the option that names the paths, for errors, such as test_file.
        label_names: the model's labels by id; others in the files are refused.
        wanted, file_format: by default those of the model's run.

    Returns:
        A dataset with `text` (string), `label` (ClassLabel of label_names), `row` and `source`.
    """
    run, reading = read_run_config(model_dir), reading_of(model_dir)
    if wanted is None:
        texts = wanted_texts(reading.get("text_column"), reading.get("text_pair_column"))
        wanted = {**texts, "label": reading.get("label_column")}
    file_format = file_format or FileFormat.of(Namespace(**reading))
    store = TextStore(run.get("text_pair_separator", PAIR_SEPARATOR))
    frame = read_files(paths, field, wanted, file_format, store, run.get("drop_missing") or None).frame
    frame = drop_missing(frame.assign(split="test"), find_missing(frame, run.get("missing_label")))
    frame = frame.assign(label=spell_labels(frame["label"], label_names, run.get("normalize_labels", False)))
    check_known_labels(frame, label_names, of_model=True)
    return store.to_dataset(frame, label_names)


def save_splits(splits: Mapping[str, datasets.Dataset], run_dir: str | os.PathLike) -> None:
    """Write splits/{train,validation,test}.parquet and data_summary.json into a run's folder, each completely or not."""

    def write(folder: Path) -> None:
        for split, dataset in splits.items():
            texts = dataset.select_columns([name for name in COLUMNS if name in dataset.column_names])
            table = texts.with_format("arrow")[:].cast(texts.features.arrow_schema)  # which notes the label names
            pa.parquet.write_table(table, folder / f"{split}.parquet")

    write_files(Path(run_dir) / SPLITS_FOLDER, write)
    write_json(Path(run_dir) / SUMMARY_FILE, getattr(splits, "summary", {}))


def load_saved_splits(run_dir: str | os.PathLike) -> TextSplits:
    """Load the splits that save_splits wrote, and their summary; refuse a file that is absent or damaged."""
    loaded, errors = {}, (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException)
    fix = "check its permissions, or train again to restore it"
    for split in SPLITS:
        path = Path(run_dir) / SPLITS_FOLDER / f"{split}.parquet"
        with as_recipe_error(errors, f"{path}: cannot be read", fix):
            if not path.exists():
                raise RecipeError(f"{path}: no such file: only train.py saves its splits beside the model")
            table = pa.parquet.read_table(path)
            table = table.select([name for name in COLUMNS if name in table.column_names])
            loaded[split] = datasets.Dataset(table)  # features come from the file's schema
            names, ids = loaded[split].features["label"].names, pa.compute.min_max(table["label"]).as_py()
            if not len(table) or table["text"].null_count or not 0 <= ids["min"] <= ids["max"] < len(names):
                raise ValueError("it has no rows, no texts or other labels")
    path = Path(run_dir) / SUMMARY_FILE
    with as_recipe_error(errors, f"{path}: cannot be read", fix):
        return TextSplits(loaded, json.loads(path.read_text(encoding="utf-8")))


def same_texts(a: Mapping[str, datasets.Dataset], b: Mapping[str, datasets.Dataset]) -> bool:
    """Return whether two DatasetDicts hold the same splits of the same texts and labels, in the same order."""

    def same(one: datasets.Dataset, other: datasets.Dataset) -> bool:
        names = [getattr(split.features["label"], "names", None) for split in (one, other)]
        # Arrow columns, which are compared where they lie; the strings of all texts would take a multiple of the memory.
        tables = [split.select_columns(["text", "label"]).with_format("arrow")[:] for split in (one, other)]
        return names[0] == names[1] and tables[0].equals(tables[1].cast(tables[0].schema))

    return a.keys() == b.keys() and all(same(a[split], b[split]) for split in a)


def summary_table(summary: dict[str, Any]) -> str:
    """Return which columns were read, and a row for each split: its texts, and those of each label; rare ones share a column."""
    if "labels" not in summary:  # splits of the user's own
        return ""
    found = summary["columns"]
    columns = f"texts from {' and '.join(map(repr, found['text_column']))}, labels from {found['label_column']!r}"
    labels = pd.DataFrame.from_dict(summary["labels"], orient="index")
    if labels.shape[1] > SHOWN + 1:
        common = labels.sum().nlargest(SHOWN).index
        rest = labels.drop(columns=common)
        labels = labels.drop(columns=rest.columns).assign(**{f"{rest.shape[1]} others": rest.sum(axis=1)})
    labels.columns = [name if len(name) <= 24 else name[:21] + "..." for name in labels]
    table = pd.concat([pd.Series(summary["texts"], name="texts"), labels], axis=1)
    return f"{columns}\n\n{table.to_string(formatters=['{:,}'.format] * table.shape[1])}"
