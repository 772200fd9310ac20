"""Labelled texts for a model that is there: a user's file, or the run's own data, read and split again."""

import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from recipe.arguments import DataArguments
from recipe.data.row_checks import check_known_labels, check_rows
from recipe.data.dataset import TextSplits, load_splits
from recipe.errors import RecipeError, one_line
from recipe.data.labels import spell_labels
from recipe.config import CONFIG_FILE, SUMMARY_FILE, read_yaml_mapping
from recipe.data.readers import FileFormat, expand_paths, read_file
from recipe.training.run_folder import data_hash
from recipe.data.trained_on import count_seen
from recipe.data.sources import join_pairs, pair_fields_of

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class LabelledTexts:
    """Where a model's test, validation and training texts come from: files that are given, else the run's own split.

    All frames have `text` and `label`, an id of the model's. Pairs are joined, and labels spelled, as in training.
    """

    model_dir: str
    label_names: list[str]
    text_column: str | None = None
    label_column: str | None = None
    text_pair_column: str | None = None
    file_format: FileFormat = FileFormat()

    def test(self, files: list[str] | None) -> pd.DataFrame:
        """Warns of texts that the model, or one that its training started from, was trained on."""
        frame = self.split("test", files)
        seen = count_seen(frame["text"], self.model_dir)
        if seen:
            logger.warning(
                "%d of the %d test texts were trained on, so every figure below is too good", seen, len(frame)
            )
        return frame

    def validation(self, files: list[str] | None, test: pd.DataFrame) -> pd.DataFrame:
        frame = self.split("validation", files)
        seen = int(test["text"].isin(frame["text"]).sum())
        if seen:
            logger.warning(
                "%d of the %d test texts are validation texts too: what is fitted to these flatters them",
                seen,
                len(test),
            )
        return frame

    def split(self, name: str, files: list[str] | None) -> pd.DataFrame:
        if files is not None:
            return self.read(files, f"{name}_file")
        try:
            return getattr(self.run[0], name)
        except RecipeError as error:
            raise RecipeError(f"no {name} texts: {error}; or give --{name}_file FILE") from error

    def train(self, files: list[str] | None, test: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """The texts to fit baselines to, and the `class_weight` that the run had.

        Of files, texts that the test holds are left out.

        Raises:
            RecipeError: there is no such file, or the run's data is not found.
        """
        if files is None:
            splits, args = self.run
            return splits.train, args.class_weight
        frame, shown = self.read(files, "train_file"), ", ".join(files)
        kept = frame[~frame["text"].isin(test["text"])]
        if kept.empty:
            raise RecipeError(f"{shown}: every text of it is also a test text: give the file of the training texts")
        if len(kept) < len(frame):
            logger.warning("%s: %d texts that the test holds are left out", shown, len(frame) - len(kept))
        return kept, "none"

    def read(self, files: list[str], field: str) -> pd.DataFrame:
        """The rows of files and globs.

        Raises:
            RecipeError: whatever is wrong with a file, and labels that the model does not know, with their rows.
        """
        parts = [check_rows(self.read_raw(path), path) for path in expand_paths(files, field)]
        frame, names = pd.concat(parts, ignore_index=True), self.label_names
        frame.attrs.clear()
        frame = join_pairs(frame, pair_fields_of(self.model_dir)["text_pair_separator"])
        frame = frame.assign(label=spell_labels(frame["label"], names, self.run_config.get("normalize_labels", False)))
        check_known_labels(frame, names, of_model=True)
        ids = {name: i for i, name in enumerate(names)}
        return frame.assign(label=frame["label"].map(ids).astype("int64"))

    def read_raw(self, path: str) -> pd.DataFrame:
        pair = self.text_pair_column or pair_fields_of(self.model_dir)["text_pair_column"]
        extra = {"text_pair": pair}
        return read_file(path, self.text_column, self.label_column, self.file_format, extra_columns=extra)

    @property
    def run_config(self) -> dict[str, Any]:
        path = Path(self.model_dir) / CONFIG_FILE
        return read_yaml_mapping(str(path)) if path.is_file() else {}

    @functools.cached_property
    def run(self) -> tuple[TextSplits, DataArguments]:
        return splits_of_run(self.model_dir, self.label_names)


def splits_of_run(model_dir: str | Path, label_names: list[str]) -> tuple[TextSplits, DataArguments]:
    """The splits that a run was trained, validated and tested on, made again from its run_config.yaml.

    Args:
        label_names: the model's.

    Raises:
        RecipeError: no run_config.yaml, data that is not where it was, or data with other labels or of another size.
    """
    config = Path(model_dir) / CONFIG_FILE
    if not config.is_file():
        raise RecipeError(f"{model_dir} has no {CONFIG_FILE}, which would tell the data of its training")
    names = {field.name for field in dataclasses.fields(DataArguments)}
    fields = {name: value for name, value in read_yaml_mapping(str(config)).items() if name in names}
    try:
        args = DataArguments(**fields)
        splits = load_splits(args, label_names)
    except (RecipeError, TypeError) as error:
        raise RecipeError(
            f"{one_line(error)} ({config} names the data; its relative paths start from the folder that training was"
            f" started from, and this is {Path.cwd()}: start there, or correct the paths)"
        ) from error
    if splits.label_names != label_names:
        shown = (", ".join(map(repr, names[:8])) for names in (splits.label_names, label_names))
        raise RecipeError("{}: the data now has the labels {}, the model {}".format(config, *shown))
    check_unchanged(Path(model_dir), splits)
    return splits, args


def check_unchanged(model_dir: Path, splits: TextSplits) -> None:
    """Other texts, or the same in another order, are split otherwise: texts trained on may be among those of the test."""
    path = model_dir / SUMMARY_FILE
    try:
        then = json.loads(path.read_text(encoding="utf-8"))["hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{path} cannot be read, which would tell whether the data is still that of training"
        ) from error
    if then != data_hash(splits):
        raise RecipeError(
            f"{model_dir / CONFIG_FILE}: the files that it names have changed since training, so the run's splits cannot be"
            " made again"
        )
