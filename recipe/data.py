"""Texts and labels in, three splits out: rows checked, labels by name, nothing guessed twice."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import pandas as pd

from recipe.arguments import DataArguments
from recipe.errors import RecipeError, one_line
from recipe.loading import quiet_loading
from recipe.reading import LABEL_COLUMNS, TEXT_COLUMNS, clean_text, find_column, read_file
from recipe.splitting import make_missing_splits, remove_duplicates, source_of, undersample

logger = logging.getLogger(__name__)

HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)


@dataclass
class TextSplits:
    """Frames with `text`, `label` (the label's id) and `row` (in its source), and the names of the labels by id."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    label_names: list[str]

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.label_names)}


def load_splits(args: DataArguments, label_names: list[str] | None = None) -> TextSplits:
    """Reads, checks and splits the data.

    Args:
        args: where the data is and how to split it.
        label_names: the labels by id of a head that is kept; used where it names all of the data's.

    Raises:
        RecipeError: whatever is wrong with the files, with file and row.
    """
    frames, declared = ({}, None) if args.train_file else load_hub_dataset(args)
    frames.update(load_files(args))
    names = order_labels(frames["train"]["label"], declared, label_names)
    for split in ("validation", "test"):
        if split in frames:
            check_known_labels(frames[split], names)
    if frames["train"]["label"].nunique() < 2:
        label = frames["train"]["label"].iloc[0]
        raise RecipeError(
            f"{source_of(frames['train'])}: all rows have the label {label!r}: a classifier needs two labels"
        )
    if args.remove_duplicates:
        frames = remove_duplicates(frames)
    if args.undersample == "all":
        frames["train"] = undersample(frames["train"], names, args.split_seed)
    frames = make_missing_splits(frames, args)
    if args.undersample == "train":
        frames["train"] = undersample(frames["train"], names, args.split_seed)
    limits = (args.max_train_samples, args.max_eval_samples, args.max_predict_samples)
    for split, limit in zip(SPLITS, limits, strict=True):
        if limit is not None and limit < len(frames[split]):
            frames[split] = frames[split].sample(limit, random_state=args.split_seed)
    check_label_coverage(frames, names)
    ids = {name: i for i, name in enumerate(names)}
    frames = {split: frame.assign(label=frame["label"].map(ids).astype("int64")) for split, frame in frames.items()}
    return TextSplits(**frames, label_names=names)


def load_files(args: DataArguments) -> dict[str, pd.DataFrame]:
    paths = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    frames = {}
    for split, path in paths.items():
        if path is not None:
            frame = read_file(path, args.text_column, args.label_column, args.file_format)
            frames[split] = check_rows(frame, source=path)
    return frames


def load_hub_dataset(args: DataArguments) -> tuple[dict[str, pd.DataFrame], list[str] | None]:
    """Also the names of the labels, where the dataset declares them (`ClassLabel`)."""
    name = args.dataset_name
    try:
        with quiet_loading():
            dataset = datasets.load_dataset(name, args.dataset_config_name)
    except Exception as error:  # the hub, the network, the builder and the file formats each raise their own
        raise RecipeError(
            f"dataset {name!r} cannot be loaded: {one_line(error)}: check the name, or give --train_file"
        ) from error
    frames, declared = {}, None
    for split, aliases in HUB_SPLITS.items():
        alias = next((alias for alias in aliases if alias in dataset), None)
        if alias is None:
            continue
        source, part = f"{name} ({alias})", dataset[alias]
        text_column = find_column(part.column_names, args.text_column, TEXT_COLUMNS, "text_column", source)
        label_column = find_column(part.column_names, args.label_column, LABEL_COLUMNS, "label_column", source)
        labels, feature = part[label_column][:], part.features[label_column]
        if isinstance(feature, datasets.ClassLabel):
            declared = declared or feature.names
            labels = [None if i is None or i < 0 else feature.int2str(i) for i in labels]
        if split == "test" and not any(label is not None for label in labels):
            logger.warning(
                "%s has no labels (a benchmark keeps them): a test split is made of training rows instead", source
            )
            continue
        cells = {
            "text": [clean_text(text) for text in part[text_column]],
            "label": labels,
            "row": range(1, len(part) + 1),
        }
        frames[split] = check_rows(pd.DataFrame(cells, dtype=object), source)
    if "train" not in frames:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    return frames, declared


def check_rows(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Refuses rows that cannot be trained on, and turns labels into strings (1 and "1" are one label)."""
    for column in ("text", "label"):
        refuse_rows(frame, frame[column].isna(), source, f"no {column}", f"fill in the {column} or drop the row")
    listed = frame["label"].map(lambda label: isinstance(label, (list, dict)))
    refuse_rows(
        frame, listed, source, "several labels (multi-label)", "this recipe gives each text one label of several"
    )
    fractional = frame["label"].map(lambda label: isinstance(label, float) and not label.is_integer())
    refuse_rows(frame, fractional, source, "a fractional label (regression)", "labels are names or whole numbers")
    check_texts(frame, source)
    checked = frame.assign(label=frame["label"].map(label_name))
    blank = checked["label"] == ""
    refuse_rows(frame, blank, source, "no label", "fill in the label or drop the row")
    checked.attrs["source"] = source
    return checked


def check_texts(frame: pd.DataFrame, source: str) -> None:
    """Refuses texts that are neither strings nor missing; in prediction, what is missing counts as empty."""
    strange = frame["text"].map(lambda text: not isinstance(text, str)) & frame["text"].notna()
    refuse_rows(frame, strange, source, "a text that is no string", "put the text in quotes")


def refuse_rows(frame: pd.DataFrame, bad: pd.Series, source: str, what: str, mend: str) -> None:
    rows = frame["row"][bad.astype(bool)].tolist()
    if rows:
        shown = ", ".join(str(row) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
        where = f"row {shown} has" if len(rows) == 1 else f"rows {shown} ({len(rows)} in all) have"
        raise RecipeError(f"{source}: {where} {what}: {mend}")


def label_name(label: Any) -> str:
    """One spelling a label: 1, 1.0 and "1 " are "1"; JSON's true is "true"."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(int(label)) if isinstance(label, float) else str(label).strip()


def order_labels(labels: pd.Series, declared: list[str] | None, of_head: list[str] | None) -> list[str]:
    """Labels by id, in an order that the files' own order does not change: numbers by value, names by alphabet."""
    found = set(labels)
    if of_head is not None and found <= set(of_head):
        return list(of_head)
    if declared is not None:
        return list(declared)
    numeric = all(name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=(lambda name: (int(name), name)) if numeric else None)


def check_label_coverage(frames: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Warns of labels that a split lacks; refuses a training split of one label, which cannot teach anything."""
    for split, frame in frames.items():
        absent = [name for name in names if name not in set(frame["label"])]
        if split == "train" and len(absent) > len(names) - 2:
            raise RecipeError(
                f"the training split holds a single label ({len(frame)} texts are left after duplicates and limits):"
                " give more rows, or a larger max_train_samples"
            )
        if absent:
            logger.warning("%s: no text has the label %s", split, ", ".join(repr(name) for name in absent[:8]))


def check_known_labels(frame: pd.DataFrame, names: list[str]) -> None:
    unseen = ~frame["label"].isin(names)
    if unseen.any():
        label = frame["label"][unseen].iloc[0]
        known = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
        what = f"a label that the training data lacks, such as {label!r}"
        refuse_rows(
            frame,
            unseen,
            source_of(frame),
            what,
            f"known are {known}; correct it, or add such rows to the training data",
        )
