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

Frames = dict[str, pd.DataFrame]


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
    frames, declared = read_splits(args)
    frames, names = name_labels(frames, declared, label_names, args.normalize_labels)
    summary = count_rows(frames)
    frames = remove_leaks(frames, args, summary)
    if args.undersample == "all":
        frames = count_removed(summary, "undersampled", frames, undersample(frames, names, args.split_seed))
    frames = make_missing_splits(frames, args)
    frames = separate_groups(frames, args, summary)  # which a split by time cuts through
    if args.undersample == "train":
        frames = count_removed(summary, "undersampled", frames, undersample(frames, names, args.split_seed))
    frames = count_removed(summary, "over_the_limit", frames, draw_samples(frames, args))
    check_label_coverage(frames, names)
    summary |= count_texts(frames, names)
    return TextSplits({split: to_dataset(frames[split], names) for split in SPLITS}, summary)


def name_labels(
    frames: Frames, declared: list[str] | None, of_head: list[str] | None, normalize: bool
) -> tuple[Frames, list[str]]:
    """Return the frames with labels in their final spelling, and the names of the labels by id."""
    refuse_regression(pd.concat([frame[["label", "row", "source"]] for frame in frames.values()], ignore_index=True))
    read = pd.concat([frame["label"] for frame in frames.values()]).nunique()
    frames = {
        split: frame.assign(label=spell_labels(frame["label"], of_head, normalize)) for split, frame in frames.items()
    }
    labels = pd.concat([frame["label"] for frame in frames.values()])
    if labels.nunique() < read:
        logger.info("%d spellings of labels are merged into %d labels", read, labels.nunique())
    if declared is not None:
        declared = pd.Series([canonical_name(name) for name in declared], dtype=object)
        declared = spell_labels(declared, of_head, normalize).tolist()
    train = frames["train"]
    names = order_labels(train["label"], declared, of_head)
    for split in ("validation", "test"):
        if split in frames:
            check_known_labels(frames[split], names)
    if train["label"].nunique() < 2:
        label = train["label"].iloc[0]
        raise RecipeError(f"{source_of(train)}: all rows have the label {label!r}: a classifier needs two labels")
    warn_of_spellings(labels, of_head)
    return frames, names


def remove_leaks(frames: Frames, args: DataArguments, summary: dict[str, Any]) -> Frames:
    """Remove what a fair test forbids: texts with several labels (where asked for), groups and copies in two splits."""
    if args.time_column:
        from recipe.data.group_and_time_splits import parse_times

        frames["train"] = frames["train"].assign(time=parse_times(frames["train"]))
    conflicts = find_conflicts(frames)
    summary["conflicts"] = conflicts["text"].nunique()
    report_conflicts(conflicts, args)
    if args.drop_conflicts:
        frames = count_removed(summary, "conflicts_dropped", frames, drop_conflicts(frames, conflicts))
    frames = separate_groups(frames, args, summary)
    if args.remove_duplicates:
        frames = count_removed(summary, "duplicates_removed", frames, remove_duplicates(frames))
    return frames


def separate_groups(frames: Frames, args: DataArguments, summary: dict[str, Any]) -> Frames:
    if not args.group_column:
        return frames
    from recipe.data.group_and_time_splits import give_up_groups

    return count_removed(summary, "group_rows_given_up", frames, give_up_groups(frames))


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
    frame = join_pairs(read_files(paths, field, columns, file_format)[0], pair["text_pair_separator"])
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


def count_rows(frames: Frames) -> dict[str, Any]:
    """Return a summary to begin with.

    rows_read: split -> file -> rows, of the splits that were given.
    conflicts: texts that occur with different labels.
    conflicts_dropped, group_rows_given_up, duplicates_removed, undersampled, over_the_limit: split -> rows removed,
        where any were. What is removed before splits are made counts as `train`.
    texts, labels (see count_texts): what is left.
    """
    rows = {split: frame["source"].value_counts(sort=False).to_dict() for split, frame in frames.items()}
    return {"rows_read": rows, "conflicts": 0} | {step: {} for step in REMOVALS}


def count_removed(summary: dict[str, Any], step: str, before: Frames, after: Frames) -> Frames:
    """Add to the summary how many rows a step removed from each split; return what it left."""
    for split, frame in before.items():
        if removed := len(frame) - len(after[split]):
            summary[step][split] = summary[step].get(split, 0) + removed
    return after


def count_texts(frames: Frames, names: list[str]) -> dict[str, Any]:
    """Return texts: split -> rows, and labels: split -> label -> rows, every label in the order of its id."""
    counts = {split: frame["label"].value_counts().reindex(names, fill_value=0) for split, frame in frames.items()}
    return {
        "texts": {split: len(frame) for split, frame in frames.items()},
        "labels": {split: {name: int(count) for name, count in of.items()} for split, of in counts.items()},
    }


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
