"""Texts and labels in, three splits out: rows checked, labels by name, nothing guessed twice."""

import logging
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.row_checks import check_known_labels, check_label_coverage, refuse_regression, source_of
from recipe.errors import RecipeError
from recipe.data.labels import canonical_name, order_labels, spell_labels, warn_of_spellings
from recipe.data.leakage import drop_conflicts, find_conflicts, give_up_groups, remove_duplicates, report_conflicts
from recipe.data.sources import read_splits
from recipe.data.splits import make_missing_splits, undersample
from recipe.data.summary import count_removed, count_rows, count_texts
from recipe.data.times import parse_times

logger = logging.getLogger(__name__)


@dataclass
class TextSplits:
    """Three frames, and the names of the labels by id.

    The frames hold `text`, `label` (int64, the label's id), `source` and `row` (the file, and where in it), and `group`
    and `time` where those are used. `summary` counts what was read, removed and split, as plain dicts (see
    recipe/summary.py).
    """

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    label_names: list[str]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.label_names)}


def load_splits(args: DataArguments, label_names: list[str] | None = None) -> TextSplits:
    """Reads, checks and splits the data; the same rows always give the same splits and label ids.

    Args:
        args: where the data is and how to split it.
        label_names: the labels by id of a head that is kept; used where it names all of the data's.

    Raises:
        RecipeError: whatever is wrong with the files, with file and row.
    """
    frames, declared = read_splits(args)
    frames, names = name_labels(frames, declared, label_names, args.normalize_labels)
    summary = count_rows(frames)
    if "time" in frames["train"]:
        frames["train"] = frames["train"].assign(time=parse_times(frames["train"]))
    frames = remove_leaks(frames, args, summary)
    if args.undersample == "all":
        frames = count_removed(summary, "undersampled", frames, cut_to_rarest(frames, names, args))
    frames = make_missing_splits(frames, args)
    if args.group_column:  # a cut in time goes through groups
        frames = count_removed(summary, "group_rows_given_up", frames, give_up_groups(frames))
    if args.undersample == "train":
        frames = count_removed(summary, "undersampled", frames, cut_to_rarest(frames, names, args))
    frames = count_removed(summary, "over_the_limit", frames, draw_samples(frames, args))
    check_label_coverage(frames, names)
    summary |= count_texts(frames, names)
    ids = {name: i for i, name in enumerate(names)}
    frames = {split: frame.assign(label=frame["label"].map(ids).astype("int64")) for split, frame in frames.items()}
    return TextSplits(**frames, label_names=names, summary=summary)


def name_labels(
    frames: dict[str, pd.DataFrame], declared: list[str] | None, of_head: list[str] | None, normalize: bool
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The frames with the labels in the spelling that counts, and the names of the labels by id."""
    refuse_regression(pd.concat([frame[["label", "row", "source"]] for frame in frames.values()], ignore_index=True))
    read = {name for frame in frames.values() for name in frame["label"].unique()}
    spelled = {split: spell_labels(frame["label"], of_head, normalize) for split, frame in frames.items()}
    frames = {split: frame.assign(label=spelled[split]) for split, frame in frames.items()}
    merged = {name for labels in spelled.values() for name in labels.unique()}
    if len(merged) < len(read):
        logger.info("%d spellings of labels are merged into %d labels", len(read), len(merged))
    if declared is not None:
        names = pd.Series([canonical_name(name) for name in declared], dtype=object)
        declared = spell_labels(names, of_head, normalize).tolist()
    names = order_labels(frames["train"]["label"], declared, of_head)
    for split in ("validation", "test"):
        if split in frames:
            check_known_labels(frames[split], names)
    if frames["train"]["label"].nunique() < 2:
        label = frames["train"]["label"].iloc[0]
        raise RecipeError(
            f"{source_of(frames['train'])}: all rows have the label {label!r}: a classifier needs two labels"
        )
    warn_of_spellings(pd.concat([frame["label"] for frame in frames.values()]), of_head)
    return frames, names


def remove_leaks(
    frames: dict[str, pd.DataFrame], args: DataArguments, summary: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """What a fair test forbids: texts of two labels (where asked for), groups and copies that stand in two splits."""
    conflicts = find_conflicts(frames)
    summary["conflicts"] = conflicts["text"].nunique()
    report_conflicts(conflicts, args)
    if args.drop_conflicts:
        frames = count_removed(summary, "conflicts_dropped", frames, drop_conflicts(frames, conflicts))
    if args.group_column:
        frames = count_removed(summary, "group_rows_given_up", frames, give_up_groups(frames))
    if args.remove_duplicates:
        frames = count_removed(summary, "duplicates_removed", frames, remove_duplicates(frames))
    return frames


def cut_to_rarest(frames: dict[str, pd.DataFrame], names: list[str], args: DataArguments) -> dict[str, pd.DataFrame]:
    return {**frames, "train": undersample(frames["train"], names, args.split_seed)}


def draw_samples(frames: dict[str, pd.DataFrame], args: DataArguments) -> dict[str, pd.DataFrame]:
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_predict_samples}
    return {
        split: frame
        if limits[split] is None or limits[split] >= len(frame)
        else frame.sample(limits[split], random_state=args.split_seed)
        for split, frame in frames.items()
    }
