"""One runner for every experiment: cases of options, rows and seed, trained on one feature cache, their results kept.

runner = Runner(arguments, splits)
results = Results(path, settings_of(arguments), texts_and_labels)
for case in cases:
    figures = results.of(case, lambda: measure(runner, case))       # an earlier call's, or trained now
"""

import contextlib
import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import datasets
import numpy as np
import torch
import transformers
import xxhash
from accelerate import PartialState
from filelock import FileLock, Timeout
from transformers import PrinterCallback, TrainerCallback

from recipe.atomic import file_hash
from recipe.config import Arguments, resolved_config
from recipe.data.dataset import load_splits
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.data.windows import choose_windows, remember_windows
from recipe.errors import RecipeError, as_recipe_error
from recipe.model.loading import head_labels, load_config
from recipe.training.features import cache_features
from recipe.training.run_folder import check_writable
from recipe.training.steps import Model, freeze, load_model, make_trainer
from recipe.training.trainer import RecipeTrainer

logger = logging.getLogger(__name__)


class Results:
    """Results by case, a line of JSON each: an interrupted experiment goes on with the cases that are missing.

    A line holds the result under a hash of all that it depends on: results of other options or texts stay unused.
    """

    def __init__(self, path: Path, *depends_on: Any):
        """Read what an earlier call has left; `depends_on` is what all cases depend on, as JSON can hold it: options, texts."""
        self.path, self.common = path, hash_of(depends_on)
        self.found: dict[str, Any] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text and not text.endswith("\n"):
            path.write_text(f"{text}\n", encoding="utf-8")  # a kill has cut the last line short
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # such a line
                kept = json.loads(line)
                self.found[kept["case"]] = kept["result"]
        if self.found:
            logger.info("%s: %d results are kept, used where options and texts are the same", path, len(self.found))

    def get(self, case: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the result of a case, or None."""
        return self.found.get(hash_of((self.common, case)))

    def of(self, case: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a case: an earlier call's, or what `measure` returns, which is then kept."""
        key = hash_of((self.common, case))
        if key not in self.found:
            self.found[key] = measure()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": key, **case, "result": self.found[key]}) + "\n")
        return self.found[key]


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Make the folder of a file of results, and let no other process use the file until the block ends."""
    if PartialState().num_processes > 1:
        raise RecipeError("experiments are one process: start this script with python")
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(gettempdir()) / f"recipe-{hash_of(str(path.resolve()))}.lock", timeout=0)
    with as_recipe_error(Timeout, f"{path} is in use by another process", "wait for it, or give another output"), lock:
        yield


def unfinished(output_file: Path) -> Path:
    """Return the path of an experiment's results until its output file is written."""
    return output_file.with_name(f"{output_file.name}.unfinished")


def hash_of(content: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, default=str).encode())


def load_texts(arguments: Arguments, *names: str) -> dict[str, datasets.Dataset]:
    """Return the splits of these names, with the label ids of the base model's head where it is a classifier."""
    model_args, data_args, _ = arguments
    config = load_config(model_args.model_name_or_path, model_args.model_revision)
    splits = load_splits(data_args, head_labels(config))
    return {name: splits[name] for name in names}


def rows_of(splits: Mapping[str, datasets.Dataset]) -> dict[str, list]:
    """Return all texts and labels, which results depend on."""
    return {name: [split["text"][:], split["label"][:]] for name, split in splits.items()}


def settings_of(arguments: Arguments) -> dict[str, Any]:
    """Return what the results of a run depend on, beside its texts: options, versions, a local base model's files by hash."""
    options = {name: value for name, value in resolved_config(*arguments).items() if name != "output_dir"}
    folder = Path(arguments[0].model_name_or_path).expanduser()
    names = ("*.safetensors", "config.json", "tokenizer*.json", "vocab.json", "merges.txt")
    files = sorted(path for name in names for path in folder.glob(name))  # of a hub's model, none
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return options | versions | {"base_model": {path.name: file_hash(path) for path in files}}


class Runner:
    """Trainings on the same texts, each by the steps of scripts/train.py: tokenized once, the trunk run once a depth."""

    def __init__(self, arguments: Arguments, splits: Mapping[str, datasets.Dataset], keep_head: bool = False):
        """Tokenize the texts; refuse those that train.py would read in windows.

        Args:
            arguments: as parse_arguments returns them.
            splits: with the columns `text` and `label` (ClassLabel); trainings take their rows from these.
            keep_head: start from the head of a base model that is a classifier of these labels, as train.py does; else each
                training starts with a fresh head.
        """
        self.arguments, self.keep_head = arguments, keep_head
        model_args, data_args, _ = arguments
        name, revision = model_args.model_name_or_path, model_args.model_revision
        config = load_config(name, revision)
        if choose_windows(config, data_args.window):
            raise RecipeError("texts would be read in windows, and experiments truncate them: pass --window 0")
        self.label_names = next(iter(splits.values())).features["label"].names
        self.tokenizer = load_tokenizer(
            name, config, data_args.max_length, data_args.truncation_side, revision, data_args.separator
        )
        self.tokenized = tokenize(splits, self.tokenizer)
        self.cached: dict[str, datasets.DatasetDict] = {}  # by what is frozen

    def make_model(self, seed: int, **options: Any) -> Model:
        """Return the model of a training; `options` are fields of ModelArguments that replace the run's."""
        model_args = dataclasses.replace(self.arguments[0], **options)
        if not self.keep_head:
            model_args.ignore_mismatched_sizes = True
        model = load_model(model_args, self.label_names, seed)
        if not (self.keep_head or model.head_is_fresh):
            model.reset_head()
        model.config.decision_threshold = None  # of the base's own head
        remember_windows(model.config, None)
        return freeze(model, model_args)[0]

    def cache(self, model: Model) -> datasets.DatasetDict:
        """Return all texts with the output of the model's frozen trunk, which is run once for all trainings that freeze the same."""
        frozen = str([name for name, parameter in model.named_parameters() if not parameter.requires_grad])
        if frozen not in self.cached:
            self.cached[frozen] = cache_features(model, self.tokenized, **self.arguments[0].cache)
        return self.cached[frozen]

    @contextlib.contextmanager
    def trainer(
        self,
        train: np.ndarray | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **training: Any,
    ) -> Iterator[RecipeTrainer]:
        """Make the trainer of one case; its folder is removed afterwards.

        Args:
            train: rows of the split `train` (None: all). The split `validation` is the one to evaluate on, if there is one.
            seed: of the head, the order of the texts and dropout; by default the run's.
            options: fields of ModelArguments that replace the run's.
            training: fields of TrainingArguments that replace the run's.
        """
        args = copy.copy(self.arguments[2])
        args.seed = args.seed if seed is None else seed
        args.report_to, args.logging_strategy = [], "no"
        for name, value in training.items():
            setattr(args, name, value)
        model = self.make_model(args.seed, **(options or {}))
        cached = self.cache(model)
        chosen = cached if train is None else {**cached, "train": cached["train"].select(train)}
        with TemporaryDirectory(prefix="recipe-experiment-") as args.output_dir:
            arguments = (self.arguments[0], self.arguments[1], args)
            trainer = make_trainer(model, arguments, chosen, self.tokenizer, callbacks=[*callbacks])
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(trainer.stop_on_sigterm)  # nothing to save: SIGTERM ends it, and what is kept stays
            yield trainer

    def train_to_the_end(
        self, train: np.ndarray | None, test: tuple[str, np.ndarray | None], seed: int | None = None
    ) -> np.ndarray:
        """Train for all epochs, nothing chosen by validation, classify, and return logits: float32 [N, num_labels].

        Args:
            train: rows of the split `train` (None: all).
            test: the split whose texts are classified, and which of its rows (None: all).
        """
        plain = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
        with self.trainer(train, seed, **plain) as trainer:
            trainer.train()
            name, numbers = test
            rows = self.cache(trainer.model)[name]
            return trainer.predict(rows if numbers is None else rows.select(numbers)).predictions
