"""Data sets: texts and labels read, checked and split into training, validation and test; saved with a run and read back."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from recipe.arguments import DataArguments
from recipe.atomic import write_files, write_json
from recipe.data.labels import canonical_name, order_labels, spell_labels, warn_of_spellings
from recipe.data.leakage import drop_conflicts, find_conflicts, remove_duplicates, report_conflicts
from recipe.data.readers import SPLITS, read_files, read_splits
from recipe.data.row_checks import check_known_labels, check_label_coverage, refuse_regression, source_of
from recipe.data.splits import draw_samples, make_missing_splits, undersample
from recipe.data.tables import FileFormat
from recipe.data.texts import join_pairs, pair_fields_of, read_run_config
from recipe.errors import RecipeError, one_line

logger = logging.getLogger(__name__)

SPLITS_FOLDER, SUMMARY_FILE = "splits", "data_summary.json"  # in a run's output_dir
REMOVALS = ("conflicts_dropped", "group_rows_given_up", "duplicates_removed", "undersampled", "over_the_limit")
SHOWN = 8  # labels that have a column of their own in the table


class TextSplits(datasets.DatasetDict):
    """The splits train, validation and test, each with `text` (string) and `label` (ClassLabel).

    `summary` counts what was read, removed and split, as plain dicts (see count_rows).
    """

    summary: dict[str, Any]

    def __init__(self, splits: Mapping[str, datasets.Dataset], summary: dict[str, Any] | None = None):
        super().__init__(splits)
        self.summary = summary or {}

    @property
    def label_names(self) -> list[str]:
        return list(self["train"].features["label"].names)


def load_splits(args: DataArguments, label_names: list[str] | None = None) -> TextSplits:
    """Load texts and labels as three splits; the same rows always give the same splits and label ids. In this order:

    1. Read and check the rows of every split that is given (files, or a dataset of the hub or the disk).
    2. Name the labels: one spelling each, and one order of ids.
    3. Remove leaks: texts with several labels (where asked for), groups and exact copies that are in two splits.
    4. Split the validation and test sets that were not given off the training rows.
    5. Sample: balance the labels and limit the rows, where asked for.

    Args:
        label_names: the labels by id of a head that is kept; used where it names all of the data's.

    Raises:
        RecipeError: whatever is wrong with the data, with file and row.
    """
    rows, declared = read_splits(args)
    rows, names = name_labels(rows, declared, label_names, args.normalize_labels)
    summary = count_rows(rows)
    rows = remove_leaks(rows, args, summary)
    if args.undersample == "all":
        rows = count_removed(summary, "undersampled", rows, undersample(rows, names, args.split_seed))
    rows = make_missing_splits(rows, args)
    rows = separate_groups(rows, args, summary)  # which a split by time cuts through
    if args.undersample == "train":
        rows = count_removed(summary, "undersampled", rows, undersample(rows, names, args.split_seed))
    rows = count_removed(summary, "over_the_limit", rows, draw_samples(rows, args))
    counts = rows.value_counts(["split", "label"]).unstack().reindex(index=SPLITS, columns=names).fillna(0).astype(int)
    check_label_coverage(counts)
    summary |= {"texts": counts.sum(axis=1).to_dict(), "labels": counts.to_dict("index")}
    return TextSplits({split: to_dataset(rows[rows["split"] == split], names) for split in SPLITS}, summary)


def name_labels(
    rows: pd.DataFrame, declared: list[str] | None, of_head: list[str] | None, normalize: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with labels in their final spelling, and the names of the labels by id."""
    refuse_regression(rows)
    read, rows = rows["label"].nunique(), rows.assign(label=spell_labels(rows["label"], of_head, normalize))
    if (merged := rows["label"].nunique()) < read:
        logger.info("%d spellings of labels are merged into %d labels", read, merged)
    if declared is not None:
        declared = spell_labels(pd.Series(declared, dtype=object).map(canonical_name), of_head, normalize).tolist()
    train = rows[rows["split"] == "train"]
    names = order_labels(train["label"], declared, of_head)
    check_known_labels(rows, names)
    if train["label"].nunique() < 2:
        label = train["label"].iloc[0]
        raise RecipeError(f"{source_of(train)}: all rows have the label {label!r}: a classifier needs two labels")
    warn_of_spellings(rows["label"], of_head)
    return rows, names


def remove_leaks(rows: pd.DataFrame, args: DataArguments, summary: dict[str, Any]) -> pd.DataFrame:
    """Remove what a fair test forbids: texts with several labels (where asked for), groups and copies in two splits."""
    if args.time_column:
        from recipe.data.group_and_time_splits import parse_times

        rows = rows.assign(time=parse_times(rows[rows["split"] == "train"]))
    conflicts = find_conflicts(rows)
    summary["conflicts"] = conflicts["text"].nunique()
    report_conflicts(conflicts, args)
    if args.drop_conflicts:
        rows = count_removed(summary, "conflicts_dropped", rows, drop_conflicts(rows, conflicts))
    rows = separate_groups(rows, args, summary)
    if args.remove_duplicates:
        rows = count_removed(summary, "duplicates_removed", rows, remove_duplicates(rows))
    return rows


def separate_groups(rows: pd.DataFrame, args: DataArguments, summary: dict[str, Any]) -> pd.DataFrame:
    if not args.group_column:
        return rows
    from recipe.data.group_and_time_splits import give_up_groups

    return count_removed(summary, "group_rows_given_up", rows, give_up_groups(rows))


def count_rows(rows: pd.DataFrame) -> dict[str, Any]:
    """Return a summary to begin with.

    rows_read: split -> file -> rows, of the splits that were given.
    conflicts: texts that occur with different labels.
    conflicts_dropped, group_rows_given_up, duplicates_removed, undersampled, over_the_limit: split -> rows removed,
        where any were. What is removed before splits are made counts as `train`.
    texts, labels: what is left, split -> texts, and split -> label -> texts, every label in the order of its id.
    """
    read = {
        split: part.value_counts(sort=False).to_dict() for split, part in rows.groupby("split", sort=False)["source"]
    }
    return {"rows_read": read, "conflicts": 0} | {step: {} for step in REMOVALS}


def count_removed(summary: dict[str, Any], step: str, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Add to the summary how many rows a step removed from each split; return what it left."""
    removed = before["split"].drop(after.index).value_counts(sort=False)
    summary[step] = removed.add(pd.Series(summary[step]), fill_value=0).astype(int).to_dict()
    return after


def to_dataset(frame: pd.DataFrame, names: list[str]) -> datasets.Dataset:
    ids = {name: i for i, name in enumerate(names)}
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    columns = {"text": frame["text"].tolist(), "label": frame["label"].map(ids).tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def load_texts_for_model(
    paths: list[str],
    field: str,
    label_names: list[str],
    model_dir: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    text_pair_column: str | None = None,
    file_format: FileFormat = FileFormat(),
) -> datasets.Dataset:
    """Load files of texts and labels for a saved model, pairs joined and labels spelled as in its training.

    Args:
        paths: files and globs.
        field: the option that names them, for errors, such as test_file.
        label_names: the model's labels by id.
        model_dir: the model's folder, whose run_config.yaml (if any) tells how it was trained.
        text_pair_column: by default the one that the model was trained with.

    Returns:
        A dataset with `text` (string) and `label` (ClassLabel of label_names).

    Raises:
        RecipeError: whatever is wrong with a file, and labels that the model does not know, with their rows.
    """
    pair = pair_fields_of(model_dir)
    columns = {"text": text_column, "label": label_column, "text_pair": text_pair_column or pair["text_pair_column"]}
    frame = join_pairs(read_files(paths, field, columns, file_format).frame, pair["text_pair_separator"])
    normalize = bool(read_run_config(model_dir).get("normalize_labels", False))
    frame = frame.assign(label=spell_labels(frame["label"], label_names, normalize))
    check_known_labels(frame, label_names, of_model=True)
    return to_dataset(frame, label_names)


def save_splits(splits: Mapping[str, datasets.Dataset], run_dir: str | os.PathLike) -> None:
    """Write splits/{train,validation,test}.parquet and data_summary.json into a run's folder, each completely or not."""

    def write(folder: Path) -> None:
        for split, dataset in splits.items():
            texts = dataset.select_columns(["text", "label"])
            table = texts.with_format("arrow")[:].cast(texts.features.arrow_schema)  # which notes the label names
            pa.parquet.write_table(table, folder / f"{split}.parquet")

    write_files(Path(run_dir) / SPLITS_FOLDER, write)
    write_json(Path(run_dir) / SUMMARY_FILE, getattr(splits, "summary", {}))


def load_saved_splits(run_dir: str | os.PathLike) -> TextSplits:
    """Load the splits that save_splits wrote, and their summary.

    Raises:
        RecipeError: a file that is absent or damaged.
    """
    loaded = {}
    for split in SPLITS:
        path = Path(run_dir) / SPLITS_FOLDER / f"{split}.parquet"
        try:
            loaded[split] = datasets.Dataset(pa.parquet.read_table(path))  # features come from the file's schema
            missing = {"text", "label"} - set(loaded[split].column_names)
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            if isinstance(error, FileNotFoundError):
                raise RecipeError(f"{path}: no such file, as train.py leaves one beside each model") from error
            raise RecipeError(f"{path}: cannot be read ({one_line(error)[:200]}): train again to restore it") from error
        if missing:
            raise RecipeError(f"{path}: no column {', '.join(sorted(missing))}: train again to restore the run's split")
    try:
        summary = json.loads((Path(run_dir) / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{Path(run_dir) / SUMMARY_FILE}: cannot be read ({one_line(error)}): train again") from error
    return TextSplits(loaded, summary)


def same_texts(a: Mapping[str, datasets.Dataset], b: Mapping[str, datasets.Dataset]) -> bool:
    """Return whether two DatasetDicts hold the same splits of the same texts and labels, in the same order."""

    def names(split: datasets.Dataset) -> list[str] | None:
        return getattr(split.features["label"], "names", None)

    return a.keys() == b.keys() and all(
        names(a[split]) == names(b[split])
        and all(a[split][column][:] == b[split][column][:] for column in ("text", "label"))
        for split in a
    )


def summary_table(summary: dict[str, Any]) -> str:
    """Return a table with a row for each split: its texts, and those of each label; rare labels share a column."""
    if "labels" not in summary:  # splits of the user's own
        return ""
    labels = pd.DataFrame.from_dict(summary["labels"], orient="index")
    if labels.shape[1] > SHOWN + 1:
        common = labels.sum().nlargest(SHOWN).index
        rest = labels.drop(columns=common)
        labels = labels[[name for name in labels if name in common]]
        labels = labels.assign(**{f"{rest.shape[1]} others": rest.sum(axis=1)})
    labels.columns = [name if len(name) <= 24 else name[:21] + "..." for name in labels]
    table = pd.concat([pd.Series(summary["texts"], name="texts"), labels], axis=1)
    order = [split for split in SPLITS if split in table.index]
    return table.loc[order].to_string(formatters=["{:,}".format] * table.shape[1])
