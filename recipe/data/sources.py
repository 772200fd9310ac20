"""The data that the arguments name, of files, saved folders and the hub: checked rows of each split that is given."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.row_checks import check_rows, check_texts
from recipe.errors import RecipeError, one_line
from recipe.data.formats import dataset_table, is_saved_dataset, load_saved_dataset
from recipe.model.loading import quiet_loading
from recipe.config import CONFIG_FILE, read_yaml_mapping
from recipe.data.readers import FileFormat, expand_paths, read_file, take_columns

logger = logging.getLogger(__name__)

HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SPLITS = tuple(HUB_SPLITS)


def read_splits(args: DataArguments) -> tuple[dict[str, pd.DataFrame], list[str] | None]:
    """The checked rows of each split that is given, and the names of the labels where the training data declares them."""
    parts = {} if args.train_file else load_dataset_splits(args)
    for split in SPLITS:
        paths = getattr(args, f"{split}_file")
        if paths:
            parts[split] = [read_part(path, split, args) for path in expand_paths(paths, f"{split}_file")]
    declared = parts["train"][0].attrs["label_names"]
    if any(part.attrs["label_names"] != declared for part in parts["train"]):
        declared = None  # files that do not agree
    frames = {}
    for split, checked in parts.items():
        frame = pd.concat(checked, ignore_index=True)
        frame.attrs.clear()
        frames[split] = join_pairs(frame, args.text_pair_separator)
    return frames, declared


def read_part(path: str, split: str, args: DataArguments) -> pd.DataFrame:
    extra = extra_columns(split, args)
    return check_rows(read_file(path, args.text_column, args.label_column, args.file_format, extra_columns=extra), path)


def extra_columns(split: str, args: DataArguments) -> dict[str, str | None]:
    """Only training rows are split by time."""
    extra = {"text_pair": args.text_pair_column, "group": args.group_column}
    return extra | ({"time": args.time_column} if split == "train" else {})


def load_dataset_splits(args: DataArguments) -> dict[str, list[pd.DataFrame]]:
    """The checked rows of dataset_name: of the hub, of a folder of files, or of one that save_to_disk wrote."""
    name = args.dataset_name
    if is_saved_dataset(Path(name)):
        dataset = load_saved_dataset(Path(name))
        if isinstance(dataset, datasets.Dataset):
            dataset = {"train": dataset}
    else:
        try:
            with quiet_loading():
                dataset = datasets.load_dataset(name, args.dataset_config_name)
        except Exception as error:  # the hub, the network, the builder and the file formats each raise their own
            raise RecipeError(
                f"dataset {name!r} cannot be loaded: {one_line(error)}: check the name, or give --train_file"
            ) from error
    parts = {}
    for split, aliases in HUB_SPLITS.items():
        alias = next((alias for alias in aliases if alias in dataset), None)
        if alias is None:
            continue
        source = f"{name} ({alias})"
        table, extra = dataset_table(source, dataset[alias]), extra_columns(split, args)
        frame = take_columns(source, table, args.text_column, args.label_column, extra_columns=extra)
        if split == "test" and frame["label"].isna().all():
            logger.warning(
                "%s has no labels (a benchmark keeps them): a test split is made of training rows instead", source
            )
            continue
        parts[split] = [check_rows(frame, source)]
    if "train" not in parts:
        raise RecipeError(f"dataset {name!r} has no train split, only {', '.join(dataset)}: give --train_file")
    return parts


def read_texts(
    path: str | Path,
    text_column: str | None = None,
    file_format: FileFormat = FileFormat(),
    text_pair_column: str | None = None,
    text_pair_separator: str = "\n",
) -> list[str]:
    """The texts of a file, to be classified: one for each row, pairs joined as in training; a missing cell is empty."""
    pair = {"text_pair": text_pair_column}
    frame = read_file(path, text_column, file_format=file_format, needs_label=False, extra_columns=pair)
    check_texts(frame, str(path))
    return join_pairs(frame.mask(frame.isna(), ""), text_pair_separator)["text"].tolist()


def join_pairs(frame: pd.DataFrame, separator: str) -> pd.DataFrame:
    """The frame with `text_pair`, where it has one, joined onto `text`."""
    if "text_pair" not in frame:
        return frame
    return frame.assign(text=frame["text"] + separator + frame["text_pair"]).drop(columns="text_pair")


def pair_fields_of(model_dir: str | Path) -> dict[str, Any]:
    """`text_pair_column` (None if there is none) and `text_pair_separator` of the run that a folder was saved by."""
    path = Path(model_dir) / CONFIG_FILE
    fields = read_yaml_mapping(str(path)) if path.is_file() else {}
    return {
        "text_pair_column": fields.get("text_pair_column"),
        "text_pair_separator": fields.get("text_pair_separator", DataArguments.text_pair_separator),
    }
