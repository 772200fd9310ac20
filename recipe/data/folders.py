"""Folders of texts: one for each label, in each a file for each text."""

import logging
from collections.abc import Iterator
from pathlib import Path

from recipe.data import batches
from recipe.data.batches import Batch, FileFormat
from recipe.data.text_files import Utf8File
from recipe.errors import RecipeError, as_recipe_error

logger = logging.getLogger(__name__)

SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test")
UNLABELLED = ("unsup",)  # what aclImdb calls texts without a label
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods")


def folder_batches(folder: Path, file_format: FileFormat) -> Iterator[Batch]:
    """Yield the texts of a folder that has one for each label: label is its name, text a file in it, in the order of names."""
    files = [(file, label.name) for label in label_folders(folder) for file in text_files(folder, label)]
    if not files:
        raise RecipeError(f"{folder}: its folders hold no files: give one with a folder of texts for each label")
    step = batches.BATCH_ROWS // 8
    for start in range(0, len(files), step):
        part = files[start : start + step]
        texts = [read_text(file, file_format) for file, _ in part]
        rows = range(start + 1, start + 1 + len(part))
        yield Batch(["text", "label"], [texts, [label for _, label in part]], rows)


def visible(folder: Path) -> list[Path]:
    with as_recipe_error(OSError, f"{folder}: cannot be read", "check its permissions"):
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def label_folders(folder: Path) -> list[Path]:
    """Return the folders of the labels; refuse a folder of splits, or of tables."""
    labels = {path.name: path for path in visible(folder) if path.is_dir()}
    if not labels:
        what = "is a folder that `datasets` did not save, without a folder of texts for each label"
        raise RecipeError(f"{folder}: {what}: give a file, or --dataset_name {folder}")
    splits = [name for name in SPLIT_FOLDERS for label in labels if label.lower() == name]
    if len(splits) > 1:
        fields = {"tr": "train", "te": "test"}
        options = " ".join(f"--{fields.get(name[:2], 'validation')}_file {folder / name}" for name in splits)
        raise RecipeError(f"{folder}: has a folder for each split: give {options}")
    for name in labels.keys() & UNLABELLED:
        logger.info("%s: is left out, since its texts have no label", labels.pop(name))
    return list(labels.values())


def text_files(folder: Path, label: Path) -> list[Path]:
    files = visible(label)
    if tables := [file.name for file in files if file.suffix.lower() in TABLES]:
        what = f"is a folder that `datasets` did not save, and {label.name}/{tables[0]} is no single text"
        raise RecipeError(f"{folder}: {what}: give the files as {label}/*{Path(tables[0]).suffix}, or --dataset_name")
    if inner := [file.name for file in files if file.is_dir()]:
        what = f"has folders in the folder of a label ({label.name}/{inner[0]})"
        raise RecipeError(f"{folder}: {what}: give the folder whose folders are the labels")
    return files


def read_text(path: Path, file_format: FileFormat) -> str:
    with Utf8File(path, file_format.encoding, pages_allowed=True) as file:
        content = file.read(file_format.max_row + 1)
    if len(content) > file_format.max_row:
        raise RecipeError(f"{path}: has over {file_format.max_row_mb:g} MB: cut the text, or raise --max_row_mb")
    return content.decode()
